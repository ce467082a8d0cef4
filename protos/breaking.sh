#!/bin/sh
# Compares the protos with those of the main branch: nothing released may break.
# Prefers the remote's main; without a remote, the local one. A first commit has nothing to compare with.
set -eu
cd "$(dirname "$0")"
for ref in refs/remotes/origin/main refs/heads/main; do
  if git rev-parse --verify --quiet "$ref:./buf.yaml" >/dev/null; then
    exec buf breaking . --against "../.git#ref=$(git rev-parse "$ref"),subdir=protos"
  fi
done
echo "buf breaking: no main branch to compare with yet"
