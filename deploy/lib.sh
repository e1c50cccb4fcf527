#!/usr/bin/env bash
# Helpers for the scripts of this repository: sourced, not run.
#
# Nothing here asks a question, reads standard input, or needs a variable beyond PATH and HOME.

say() { printf '%s\n' "$*" >&2; }

fail() {
  say "${0##*/}: $*"
  exit 1
}

# The directory that cargo builds into, for a repository at $1.
target_dir() {
  case ${CARGO_TARGET_DIR:-} in
    '') echo "$1/target" ;;
    /*) echo "$CARGO_TARGET_DIR" ;;
    *) echo "$1/$CARGO_TARGET_DIR" ;;
  esac
}

# cargo, also where it is not on PATH but in its usual place.
need_cargo() {
  if ! command -v cargo >/dev/null && [[ -x ${CARGO_HOME:-${HOME:-}/.cargo}/bin/cargo ]]; then
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    export PATH
  fi
  command -v cargo >/dev/null ||
    fail "cargo is missing; install Rust 1.88 or later (rustup.rs, or your package manager)"
  local version minor
  version=$(cargo --version 2>/dev/null) || fail "cargo does not run: $(cargo --version 2>&1 | head -n 1)"
  minor=$(sed -n 's/^cargo 1\.\([0-9]*\)\..*/\1/p' <<<"$version")
  [[ -z $minor ]] || ((minor >= 88)) ||
    fail "$version is too old; Rust 1.88 or later is needed (rustup update)"
  command -v cc >/dev/null ||
    fail "no C compiler (cc), which Rust needs to link; install one (Debian, Ubuntu: apt-get install -y gcc libc6-dev)"
}

need_node() {
  local tool
  for tool in node npm; do
    command -v "$tool" >/dev/null ||
      fail "$tool is missing; install Node.js 20 or later together with npm (nodejs.org, or your package manager)"
  done
}

has_redis() {
  command -v redis-server >/dev/null || command -v valkey-server >/dev/null
}

# redis-server or valkey-server: installed where root may do it, else the command is named. No service is started.
need_redis() {
  if has_redis; then
    return
  fi
  local command="apt-get update && apt-get install -y --no-install-recommends redis-server"
  if ! command -v apt-get >/dev/null; then
    fail "neither redis-server nor valkey-server is on PATH; install one, 7.0 or later (macOS: brew install redis;" \
      "Fedora: dnf install valkey; Alpine: apk add redis; Arch: pacman -S valkey)"
  fi
  if [[ $(id -u) != 0 ]]; then
    say "${0##*/}: neither redis-server nor valkey-server is on PATH. Install one, as root, and run this again:"
    say "  $command"
    exit 1
  fi
  say "Neither redis-server nor valkey-server is on PATH: installing redis-server (its service is not started)."
  install_redis || fail "could not install redis-server; by hand: $command"
  has_redis || fail "redis-server was installed and is still not on PATH ($PATH)"
}

# In a subshell, whose end undoes what holds the service back, however it ends.
install_redis() (
  policy=/usr/sbin/policy-rc.d
  mark="# Put here while redis-server is installed; safe to remove."
  trap 'exit 1' HUP INT TERM
  if [[ ! -e $policy ]] || grep -qxF "$mark" "$policy" 2>/dev/null; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy" && chmod 755 "$policy" || exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
  options=(-q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2)
  for attempt in 1 2 3; do
    if apt-get "${options[@]}" update </dev/null >&2 &&
      apt-get "${options[@]}" install -y --no-install-recommends redis-server </dev/null >&2; then
      exit 0
    fi
    say "attempt $attempt to install redis-server failed"
    [[ $attempt == 3 ]] || sleep 5
  done
  exit 1
)
