#!/usr/bin/env bash
# The tests with oldest and newest torch on every Python that is there: test_matrix.sh [PYTEST ARGUMENT...].
#
# Each row has an environment of its own in build/matrix, where the wheel is installed, not this folder: so a file that
# the wheel lacks is missed. Rows whose Python is not on the path are named and skipped; MATRIX="3.12:2.11.0 ..." picks
# other rows. pip takes each torch from where it is configured to, which may be a download of some gigabytes.
set -euo pipefail
cd "$(dirname "$0")/.."
rows=${MATRIX:-"3.11:2.11.0 3.11:2.15.0 3.12:2.11.0 3.12:2.15.0 3.13:2.11.0 3.13:2.15.0"}
mkdir -p build/matrix
failed=()
for row in $rows; do
    python=python${row%%:*} torch=${row##*:} place=build/matrix/$row
    if ! "$python" -c pass 2>/dev/null; then
        echo "== $row: there is no $python here"
        continue
    fi
    echo "== Python ${row%%:*}, torch $torch"
    if [ ! -x "$place/bin/python" ]; then
        "$python" -m venv "$place"
    fi
    # By the variable, which takes the place of any constraint that pip is configured with.
    echo "torch==$torch" >"$place/constraints.txt"
    rm -rf "$place/wheel"
    PIP_CONSTRAINT=$place/constraints.txt "$place/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$place/wheel" .
    PIP_CONSTRAINT=$place/constraints.txt "$place/bin/python" -m pip install --quiet \
        "phalanx[test] @ file://$PWD/$(echo "$place"/wheel/*.whl)"
    "$place/bin/python" -m pip install --quiet --no-deps --force-reinstall "$place"/wheel/*.whl
    # Not `python -m pytest`, which would import this folder.
    "$place/bin/pytest" -n 2 --dist loadgroup --no-loadscope-reorder "$@" || failed+=("$row")
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
