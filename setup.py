import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

setup(
    name="fairseq-cgc",
    version=re.search('__version__ = "(.+)"', (ROOT / "fairseq_cgc" / "__init__.py").read_text(encoding="utf-8"))[1],
    description="Context-gated convolution for machine translation: a fairseq plugin",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["fairseq_cgc", "fairseq_cgc.*"]),
    package_data={"fairseq_cgc.recipe": ["rows.toml", "page.html.jinja"]},
    entry_points={"console_scripts": ["fairseq-cgc = fairseq_cgc.__main__:main"]},
    # ve-fairseq has wheels for these two only, and its 0.12.3 is the only fairseq that imports on them.
    python_requires=">=3.11,<3.13",
    install_requires=[
        "ve-fairseq==0.12.3",  # the toolkit we plug into; imported as fairseq
        "torch>=2.4",  # from 2.4 on, the weights-only loader can be told of argparse.Namespace
        "sacrebleu>=2.4",  # BLEU and chrF with signatures
        "scipy>=1.11",  # Student's t, for differences over seeds; ve-fairseq brings it
        "sentencepiece>=0.2",  # the other subword model of fairseq's --bpe
        "subword-nmt>=0.3.8",  # BPE, as in fairseq's recipes
        "sacremoses>=0.1.1",  # Moses tokenisation without Perl
        "tabulate>=0.9",  # tables; sacrebleu brings it
        "jinja2>=3.1",  # the page of fairseq-cgc report; torch brings it
        "tqdm>=4.64",  # progress bars
    ],
    extras_require={
        # the tests, on several cores, random shapes in them, the plots that they look at, the GPU's
        # kernels, which run in Triton's interpreter where there is no GPU; lint, format and types
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "matplotlib>=3.8",
            "triton>=3.2; platform_system == 'Linux'",
            "ruff>=0.17",
            "mypy>=2.4",
        ],
        "plots": ["matplotlib>=3.8"],  # bar charts and learning curves as PNG
        "tensorboard": ["tensorboard>=2.16"],  # train.sh --tensorboard
    },
)
