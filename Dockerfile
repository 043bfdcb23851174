# The plugin on the CPU; its default command is the quickstart:
#   docker build -t fairseq-cgc . && docker run --rm -v "$PWD/runs:/work/runs" fairseq-cgc
FROM python:3.11-slim
COPY setup.py pyproject.toml README.md LICENSE constraints.txt /source/
COPY fairseq_cgc /source/fairseq_cgc
RUN pip install --no-cache-dir -c /source/constraints.txt '/source[plots]'
WORKDIR /work
ENTRYPOINT ["fairseq-cgc"]
CMD ["quickstart"]
