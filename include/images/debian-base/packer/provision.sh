#!/bin/sh
# Makes a debian-base system out of a bare Debian, on any platform: packages, our files, hardening, clean-up.
#
# PHOENIX_FAMILY, PHOENIX_VERSION  go to /etc/phoenix-release
# PHOENIX_FILES                    folder with one tree of files per layer
# PHOENIX_LAYERS                   the layers to lay over the system, in order: "common container"
set -eu
umask 022
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

PACKAGES="ca-certificates nginx-light openssh-server python3 runit"

say() {
    echo "provision: $*"
}

install_packages() {
    # No init system runs here, so nothing that a package brings may be started.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    # Without Error-Mode=any apt goes on with old lists when the archive does not answer.
    apt-get -q -o APT::Update::Error-Mode=any -o Acquire::Retries=3 update
    apt-get -q -y -o Dpkg::Options::=--force-confold full-upgrade
    # shellcheck disable=SC2086 # one word per package
    apt-get -q -y -o Dpkg::Options::=--force-confold install --no-install-recommends $PACKAGES
    apt-get -q -y autoremove --purge
    rm -f /usr/sbin/policy-rc.d
}

install_files() {
    # Debian's own runit services expect folders that only its runit-init makes.
    find /etc/service/ -mindepth 1 -maxdepth 1 -exec rm -rf {} +
    for layer in $PHOENIX_LAYERS; do
        (cd "$PHOENIX_FILES/$layer" && find . -type f) | while read -r file; do
            mode=644
            if [ "$(head -c 2 "$PHOENIX_FILES/$layer/$file")" = "#!" ]; then mode=755; fi
            install -D -m "$mode" "$PHOENIX_FILES/$layer/$file" "/$file"
        done
    done
    printf 'FAMILY=%s\nVERSION=%s\n' "$PHOENIX_FAMILY" "$PHOENIX_VERSION" >/etc/phoenix-release
    install -d -m 700 /root/.ssh
}

harden() {
    usermod --password '*' root
    rm -f /etc/nginx/sites-enabled/default
    # Nobody but root logs in and services keep the user they start with: no program needs to raise rights.
    # dpkg-statoverride keeps it so when a package is upgraded.
    find / -xdev -type f -perm /6000 | while read -r program; do
        dpkg-statoverride --list "$program" >/dev/null && dpkg-statoverride --remove "$program"
        dpkg-statoverride --update --add root root 755 "$program"
    done
}

clean_up() {
    rm -f /etc/ssh/ssh_host_*
    : >/etc/machine-id # emptied, not deleted: each instance fills it in
    rm -f /var/lib/dbus/machine-id
    apt-get -q clean
    find /var/lib/apt/lists /var/cache/apt -xdev -type f -delete
    find /var/log -xdev -type f -delete
    rm -f /etc/*- /var/lib/dpkg/*-old /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache /var/lib/systemd/random-seed
    rm -rf /root/.cache /root/.bash_history /root/.ssh/authorized_keys /root/.ssh/known_hosts
    find /tmp /var/tmp /run -xdev -mindepth 1 -maxdepth 1 ! -path "$0" -exec rm -rf {} +
}

say "packages"
install_packages
say "files: $PHOENIX_LAYERS"
install_files
say "hardening"
harden
say "clean-up"
clean_up
say "done: $PHOENIX_FAMILY $PHOENIX_VERSION"
