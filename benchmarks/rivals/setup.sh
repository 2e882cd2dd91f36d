#!/usr/bin/env bash
# The environments of the servers that benchmarks/serving.py measures beside the service, with exact versions.
# benchmarks/rivals/setup.sh [FOLDER]; FOLDER is var/rivals of the repository unless given.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
folder="${1:-$here/../../var/rivals}"
python="${PYTHON:-python3.11}"
for name in mlserver bentoml; do
  [ -x "$folder/$name/bin/python" ] || "$python" -m venv "$folder/$name"
  "$folder/$name/bin/python" -m pip install --quiet --no-deps -r "$here/$name.txt"
done
