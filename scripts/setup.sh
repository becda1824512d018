#!/usr/bin/env bash
# Brings everything that building, testing and the demo need and that isn't there. Idempotent; the second run takes
# about a second. What it can't bring it names in one line.
set -euo pipefail
cd "$(dirname "$0")/.."

UV_VERSION=$(sed -n 's/^uv==\([^ ;]*\).*/\1/p' requirements/dev.txt)
STAMP=.venv/.installed-$(cat requirements/dev.txt pyproject.toml | sha256sum | cut -c1-16)
NPM_FOLDER=tests/clients/npm
NPM_STAMP=$NPM_FOLDER/node_modules/.installed-$(cat $NPM_FOLDER/package*.json | sha256sum | cut -c1-16)
MIN_NODE=20
CERTIFICATES=/etc/ssl/certs/ca-certificates.crt # of the machine, those that a company adds among them

say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.14 python3.13 python3.12 python3.11 python3; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "Python 3.11 or newer is needed; install it or set PYTHON to one"
}

# install_debian PACKAGE...: through apt, when there is apt and we may use it.
install_debian() {
  local apt=(apt-get)
  command -v apt-get >/dev/null || fail "please install: $*"
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || fail "please run: sudo apt-get install --no-install-recommends $*"
    apt=(sudo -n apt-get)
  fi
  say "installing Debian packages: $*"
  # RUNLEVEL=1 keeps the packages from starting their services: tests start their own.
  "${apt[@]}" update -qq
  RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y -qq --no-install-recommends "$@" >/dev/null
}

debian_packages() {
  local missing=()
  PATH=$PATH:/usr/sbin:/sbin
  command -v redis-server >/dev/null || missing+=(redis-server)
  command -v memcached >/dev/null || missing+=(memcached)
  command -v chromium >/dev/null || missing+=(chromium)
  command -v prometheus >/dev/null || missing+=(prometheus)
  command -v nft >/dev/null || missing+=(nftables)
  command -v iptables >/dev/null || missing+=(iptables)
  command -v ipset >/dev/null || missing+=(ipset)
  command -v ip >/dev/null || missing+=(iproute2)
  command -v curl >/dev/null || missing+=(curl)
  command -v node >/dev/null || missing+=(nodejs)
  command -v npm >/dev/null || missing+=(npm)
  [ ${#missing[@]} = 0 ] || install_debian "${missing[@]}"
}

python_packages() {
  [ -e "$STAMP" ] && return
  local python
  python=$(find_python)
  [ -x .venv/bin/python ] || "$python" -m venv .venv 2>/dev/null || {
    rm -rf .venv
    install_debian python3-venv
    "$python" -m venv .venv
  }
  say "installing Python packages from requirements/dev.txt"
  export UV_SYSTEM_CERTS=1 # the machine's certificate authorities, as pip uses them: companies add their own
  .venv/bin/python -m pip install -q --disable-pip-version-check "uv==$UV_VERSION"
  .venv/bin/uv pip sync -q --require-hashes requirements/dev.txt
  .venv/bin/uv pip install -q --no-deps --no-build-isolation --editable .
  rm -f .venv/.installed-*
  touch "$STAMP"
}

# The clients that tests/clients runs, by the lock and nothing else: no package runs a script of its own here.
npm_packages() {
  [ -e "$NPM_STAMP" ] && return
  node -e "process.exit(Number(parseInt(process.versions.node) < $MIN_NODE))" ||
    fail "Node $MIN_NODE or newer is needed, and this one is $(node --version); install one ahead of it in PATH"
  say "installing npm packages from $NPM_FOLDER/package-lock.json"
  if [ -e $CERTIFICATES ]; then export NODE_EXTRA_CA_CERTS=${NODE_EXTRA_CA_CERTS:-$CERTIFICATES}; fi
  (cd $NPM_FOLDER && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null)
  touch "$NPM_STAMP"
}

embedded_cluster() {
  [ "${CLUSTER:-embedded}" != embedded ] || devcluster/binary.sh >/dev/null
}

# phase NAME FUNCTION: what takes more than a moment says how long it took.
phase() {
  local begun=$SECONDS
  "$2"
  [ $((SECONDS - begun)) -lt 2 ] || say "$1: $((SECONDS - begun)) s"
}

# Each in a process group of its own, so that nothing goes on compiling once set-up was interrupted.
beside=()
beside() { set -m; phase "$@" & beside+=($!); set +m; }
stop_beside() { for job in "${beside[@]}"; do kill -- "-$job" 2>/dev/null || true; done; }
trap stop_beside EXIT

beside "embedded cluster" embedded_cluster # compiles for minutes the first time, while the others mostly download
phase "Debian packages" debian_packages
beside "Python packages" python_packages
phase "npm packages" npm_packages
for job in "${beside[@]}"; do wait "$job" || fail "a step failed (see above)"; done
beside=()
say "ready"
