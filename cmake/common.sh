# shellcheck shell=bash
# What run-demo and run-tests share: installing packages and building. Sourced with $root set to the source folder.
: "${root:?}"

say() {
    printf '== %s\n' "$*"
}

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# as_root COMMAND...
as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "root or sudo is needed to run: $*"
    fi
}

package_installed() {
    [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null) == ii* ]]
}

# install_packages build|test|full: what cmake/packages.txt lists for it and this machine lacks
install_packages() {
    local wanted=() missing=() name purpose
    while read -r name purpose; do
        [[ -z $name || $name == \#* ]] && continue
        [[ $purpose == test:* && $1 == build ]] && continue
        [[ $purpose == full:* && $1 != full ]] && continue
        wanted+=("$name")
    done <"$root/cmake/packages.txt"
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        say "this is not Debian or Ubuntu: nothing is installed; the build needs what these packages hold:"
        printf '   %s\n' "${wanted[@]}"
        return
    fi
    for name in "${wanted[@]}"; do
        package_installed "$name" || missing+=("$name")
    done
    ((${#missing[@]})) || return 0
    say "installing with apt-get: ${missing[*]}"
    as_root apt-get update -q >/dev/null || say "apt-get update failed; trying with the lists that are there"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null ||
        die "apt-get could not install: ${missing[*]}"
}

# build FOLDER CMAKE-OPTION...: quiet, unless it fails
build() {
    local folder=$1 log
    shift
    log=$(mktemp)
    say "building in ${folder#"$root"/}"
    if ! { cmake -S "$root" -B "$folder" -G Ninja "$@" && cmake --build "$folder"; } >"$log" 2>&1; then
        tail -n 60 "$log" >&2
        rm -f "$log"
        die "the build in $folder failed"
    fi
    rm -f "$log"
}
