# What every script starts with: strict mode, the repository's root as the folder, a few words.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# The lab's places; lab/places.py knows the same names.
: "${PHOENIX_LAB_HOME:=/var/lib/phoenix-lab}"
: "${PHOENIX_CACHE:=/var/cache/phoenix-fleet}"

say() { printf '· %s\n' "$*" >&2; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# Runs a command as root: directly, or through sudo with the reason said before.
as_root() {
    if [[ $(id -u) == 0 ]]; then "$@"; return; fi
    command -v sudo >/dev/null || die "This needs root: run it as root, or install sudo. ($*)"
    sudo "$@"
}

docker_answers() { timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
docker_answers_root() { as_root timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
