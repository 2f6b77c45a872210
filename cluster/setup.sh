#!/usr/bin/env bash
# Makes a machine a node: Python 3.11, make, a C compiler for GPUs, the project's locked environment, ~/.llamafarm.env.
# Run in the project's folder by `ray up`, SkyPilot or hand; what is there already is left alone.
#   LLAMAFARM_HOME=s3://my-bucket/llamafarm EXTRA=gpu bash cluster/setup.sh
set -euo pipefail
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9
EXTRA="${EXTRA:-$(command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)}"
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# A Python without venv, as Debian's is without python3.11-venv, makes half an environment.
PYTHON="$(command -v python3.11 || true)"
if [ -n "$PYTHON" ] && ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then PYTHON=""; fi
PATH="$HOME/.local/bin:$PATH" # where uv installs itself

missing=()
command -v make >/dev/null || missing+=(make)
command -v rsync >/dev/null || missing+=(rsync)
if [ "$EXTRA" = gpu ]; then command -v cc >/dev/null || missing+=(gcc libc6-dev); fi
if [ -z "$PYTHON" ] && ! command -v uv >/dev/null && ! command -v curl >/dev/null; then missing+=(curl ca-certificates); fi
if [ "${#missing[@]}" -gt 0 ]; then
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

if [ -z "$PYTHON" ]; then
  if ! command -v uv >/dev/null; then
    curl --proto '=https' --tlsv1.2 -LsSf "https://astral.sh/uv/$UV_VERSION/install.sh" | sh
  fi
  uv python install --quiet 3.11
  PYTHON="$(uv python find --managed-python 3.11)" # not the one that was found wanting
fi
make setup EXTRA="$EXTRA" PYTHON="$PYTHON"

# `ray down`, `ray exec` and people on this machine type `ray` and `llamafarm`; Ray asks them for its token.
line="export PATH=\"$PWD/.venv/bin:\$PATH\" RAY_AUTH_MODE=token; [ ! -d ~/.ray/tls ] || { set -a; . \"$PWD/cluster/tls.env\"; set +a; }"
grep -qxF "$line" ~/.bashrc 2>/dev/null || printf '%s\n' "$line" >> ~/.bashrc

# The home, for every process of Ray on this node. Credentials come from the machine's own identity; where it has none
# (on premises), they are written here by hand.
if [ -n "${LLAMAFARM_HOME:-}" ]; then
  touch ~/.llamafarm.env
  chmod 600 ~/.llamafarm.env
  others="$(grep -v '^LLAMAFARM_HOME=' ~/.llamafarm.env || true)"
  { [ -z "$others" ] || printf '%s\n' "$others"; printf 'LLAMAFARM_HOME=%s\n' "$LLAMAFARM_HOME"; } > ~/.llamafarm.env.new
  chmod 600 ~/.llamafarm.env.new
  mv ~/.llamafarm.env.new ~/.llamafarm.env
fi
