#!/bin/sh
# Makes a base system out of a bare Debian or Ubuntu, on any platform: packages, our files, hardening, clean-up.
#
# PHOENIX_FAMILY, PHOENIX_VERSION  go to /etc/phoenix-release
# PHOENIX_FILES                    folder with one tree of files per layer
# PHOENIX_LAYERS                   the layers to lay over the system, in order: "common container" (phoenix-init is its
#                                  PID 1), "common machine" (systemd and cloud-init), "common machine scratch" (a disk
#                                  that we made, so it has to be made to boot)
set -eu
umask 022
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

PACKAGES="ca-certificates nginx-light openssh-server python3 runit"
SELF_UPDATES="apt-daily.timer apt-daily-upgrade.timer unattended-upgrades.service snapd.service snapd.socket"

say() {
    echo "provision: $*"
}

has_layer() {
    case " $PHOENIX_LAYERS " in *" $1 "*) return 0 ;; esac
    return 1
}

# cloud-init may still be at it, and the system's own updates would hold apt's locks. They never run again: machines
# are replaced, not patched.
settle() {
    if command -v cloud-init >/dev/null; then timeout 600 cloud-init status --wait >/dev/null || true; fi
    # shellcheck disable=SC2086 # one word per unit
    systemctl mask $SELF_UPDATES
    # shellcheck disable=SC2086
    systemctl stop $SELF_UPDATES apt-daily.service apt-daily-upgrade.service || true # not each is everywhere
}

install_packages() {
    more=
    if has_layer machine; then more=cloud-init; fi
    # No init system runs in a container, and on a machine nothing may be up before it is hardened.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
    # Without Error-Mode=any apt goes on with old lists when the archive does not answer.
    apt-get -q -o APT::Update::Error-Mode=any -o Acquire::Retries=3 update
    apt-get -q -y -o Dpkg::Options::=--force-confold full-upgrade
    # shellcheck disable=SC2086 # one word per package
    apt-get -q -y -o Dpkg::Options::=--force-confold install --no-install-recommends $PACKAGES $more
    apt-get -q -y autoremove --purge
    rm -f /usr/sbin/policy-rc.d
}

install_files() {
    # Debian's own runit services expect folders that only its runit-init makes. Newer ones make no /etc/service either.
    mkdir -p /etc/service
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

# From the next boot on runit keeps sshd and whatever comes, as in a container; the build's own sshd runs on.
enable_services() {
    systemctl enable phoenix-services.service
    for unit in ssh.service ssh.socket nginx.service; do
        if systemctl cat "$unit" >/dev/null 2>&1; then systemctl disable "$unit"; fi
    done
}

make_bootable() {
    systemctl enable systemd-networkd.service systemd-resolved.service
    disk=$(lsblk -no PKNAME "$(findmnt -no SOURCE /)")
    grub-install --target=i386-pc "/dev/$disk"
    # pvgrub and pygrub read the same file in a Xen guest.
    update-grub
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
    # What is only deleted stays on a disk, for whoever reads its free blocks.
    find /etc/ssh -xdev -name 'ssh_host_*' -exec shred -u {} +
    : >/etc/machine-id # emptied, not deleted: each instance fills it in
    rm -f /var/lib/dbus/machine-id
    apt-get -q clean
    find /var/lib/apt/lists /var/cache/apt -xdev -type f -delete
    find /var/log -xdev -type f -delete
    rm -f /etc/*- /var/lib/dpkg/*-old /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache /var/lib/systemd/random-seed
    rm -rf /root/.cache /root/.bash_history /root/.ssh/known_hosts
    if has_layer machine; then
        clean_up_machine
    else
        rm -f /root/.ssh/authorized_keys
        find /run -xdev -mindepth 1 -maxdepth 1 -exec rm -rf {} +
    fi
    find /tmp /var/tmp -xdev -mindepth 1 -maxdepth 1 ! -path "$0" -exec rm -rf {} +
}

# What cloud-init and the one who builds have left. Whoever may log in next is told at the next boot.
clean_up_machine() {
    # Down already, it saves no new seed when the machine goes off.
    systemctl stop systemd-random-seed.service || true # none runs where nothing was booted
    rm -f /var/lib/systemd/random-seed
    # The key of the build is in there, too.
    find /var/lib/cloud -xdev -type f -exec shred -u {} + 2>/dev/null || true
    rm -rf /var/lib/cloud /var/log/journal /var/log/cloud-init*
    rm -f /etc/netplan/50-cloud-init.yaml /etc/udev/rules.d/70-persistent-*.rules /etc/sudoers.d/90-cloud-init-users
    # The build's own key: Packer leaves it where it was put in. Overwritten, since disks keep what is only deleted.
    for keys in /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys; do
        if [ -e "$keys" ]; then shred -u "$keys"; fi
    done
    rm -f /home/*/.bash_history /home/*/.sudo_as_admin_successful
    sync
    fstrim -v / || true # where the disk takes it; what is free is then not stored
}

if has_layer machine; then settle; fi
say "packages"
install_packages
say "files: $PHOENIX_LAYERS"
install_files
if has_layer machine; then enable_services; fi
if has_layer scratch; then make_bootable; fi
say "hardening"
harden
say "clean-up"
clean_up
say "done: $PHOENIX_FAMILY $PHOENIX_VERSION"
