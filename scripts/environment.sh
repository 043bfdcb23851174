# Sourced by the other scripts. Leaves in $PYTHON an interpreter whose environment holds the project
# and, with the tested versions, what it needs: .venv beside the scripts, made here, or the
# environment whose interpreter is named by --python PATH (taken out of the arguments: see
# take_python_option) or by the variable CGC_PYTHON.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    echo "error: $*" >&2
    exit 1
}

# take_python_option "$@": sets CGC_PYTHON and leaves the other arguments in ARGUMENTS.
take_python_option() {
    ARGUMENTS=()
    while [ $# -gt 0 ]; do
        case $1 in
            --python)
                [ $# -gt 1 ] || fail "--python needs the path of an interpreter"
                CGC_PYTHON=$2
                shift 2 ;;
            --python=*) CGC_PYTHON=${1#*=}; shift ;;
            *) ARGUMENTS+=("$1"); shift ;;
        esac
    done
}

# The first interpreter that runs and is of a supported version; without one, status 1 and the others' versions.
find_python() {
    local candidate found=
    for candidate in python3 python3.12 python3.11 python; do
        "$candidate" -c 'import sys' 2>/dev/null || continue
        found="${found:+$found, }$candidate: $("$candidate" -c 'import platform; print(platform.python_version())')"
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'; then
            echo "$candidate"
            return
        fi
    done
    echo "${found:-none}"
    return 1
}

# make_environment FOLDER: with a supported interpreter, or with uv, which finds or downloads one.
make_environment() {
    local base
    if base=$(find_python); then
        echo "make $1 with $("$base" --version)"
        rm -rf "$1"
        "$base" -m venv "$1" ||
            fail "$base -m venv failed (see its output above); on Debian, apt-get install python3-venv"
    elif command -v uv >/dev/null; then
        echo "make $1 with uv's Python 3.12; the versions on the path are not supported ($base)"
        rm -rf "$1"
        uv venv --python 3.12 "$1" && "$1/bin/python" -m ensurepip >/dev/null ||  # its own --seed asks another index than pip
            fail "uv could not make the environment (see its output above)"
    else
        fail "Python 3.11 or 3.12 is needed, for which ve-fairseq has wheels; found $base." \
            "Install uv (pip install uv), which gets one, or a Python 3.12 of your own and name it with --python PATH"
    fi
}

# set_up_environment EXTRA: EXTRA is "" or the name of an extra of setup.py.
set_up_environment() {
    local extra=$1 stamp wanted pins
    if [ -w "$ROOT" ] && command -v flock >/dev/null && exec 9>"$ROOT/.venv.lock" && ! flock -n 9; then
        echo "wait for another command that makes the environment"
        flock 9 || true  # a file system without locks
    fi
    if [ -n "${CGC_PYTHON:-}" ]; then
        PYTHON=$(command -v "$CGC_PYTHON") || fail "--python $CGC_PYTHON: no such interpreter"
    else
        PYTHON=$ROOT/.venv/bin/python
        if ! "$PYTHON" -c '' 2>/dev/null; then
            make_environment "$ROOT/.venv"
        fi
    fi
    "$PYTHON" "$ROOT/scripts/check_environment.py" before || exit 1
    stamp=$("$PYTHON" -c 'import sys; print(sys.prefix)')/.fairseq-cgc-
    wanted=$(cat "$ROOT/constraints.txt" "$ROOT/setup.py" | cksum)
    # What an extra's stamp vouches for includes what goes without one.
    if ! cat "$stamp"${extra:-*} 2>/dev/null | grep -qx "$wanted" ||
        ! "$PYTHON" "$ROOT/scripts/check_environment.py" after 2>/dev/null; then
        echo "install fairseq-cgc${extra:+[$extra]} with the tested versions (constraints.txt) for $PYTHON"
        pins=$(mktemp) || fail "no room for a temporary file"
        "$PYTHON" "$ROOT/scripts/check_environment.py" pins >"$pins"
        "$PYTHON" -m pip install --disable-pip-version-check -c "$pins" -e "$ROOT${extra:+[$extra]}" || {
            rm -f "$pins"
            fail "pip could not install the project (see its output above); is the package index within reach?"
        }
        rm -f "$pins"
        "$PYTHON" "$ROOT/scripts/check_environment.py" after || exit 1
        echo "$wanted" >"$stamp$extra"
    fi
    exec 9>&-
}

# run_command COMMAND "$@": fairseq-cgc COMMAND, in the environment that --python names or that is made here, with the
# extra that EXTRA names. Help needs no environment, just an interpreter, of a newer version too.
run_command() {
    local command=$1 argument
    shift
    take_python_option "$@"
    for argument in ${ARGUMENTS[@]+"${ARGUMENTS[@]}"}; do
        case $argument in
            -h | --help)
                PYTHON=${CGC_PYTHON:-$(find_python)} || PYTHON=python3
                PYTHONPATH=$ROOT "$PYTHON" -P -m fairseq_cgc "$command" --help
                echo "  --python PATH         interpreter whose environment to use instead of making .venv"
                exit ;;
        esac
    done
    set_up_environment "${EXTRA:-}" >&2
    exec "$PYTHON" -P -m fairseq_cgc "$command" ${ARGUMENTS[@]+"${ARGUMENTS[@]}"}
}
