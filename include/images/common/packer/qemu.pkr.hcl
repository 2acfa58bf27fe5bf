# Any family on libvirt (KVM, QEMU, Xen): a disk, made from scratch or published, booted once and provisioned over SSH.
#
# Readable by Debian's Packer 1.6.6, which has every plugin built in and knows no required_plugins. A current Packer
# takes its plugins from plugins/: run `packer init plugins` once, then build this same file.

variable "family" { type = string }
variable "version" { type = string }
variable "common" { type = string }
variable "manifest" { type = string }

variable "disk" { type = string }
# Arguments for QEMU: a kernel for a disk that does not boot by itself yet, or what tells its cloud-init who may log in.
variable "boot" { type = list(list(string)) }
variable "layers" { type = string }
variable "key_file" { type = string }
# Who the guest belongs to and until when: a later sweep ends one that outlives its build.
variable "guest" { type = string }
variable "output" { type = string }
variable "console" { type = string }
variable "accelerator" { type = string }
variable "memory_mib" { type = number }
variable "cpus" { type = number }

source "qemu" "machine" {
  disk_image       = true
  iso_url          = var.disk
  iso_checksum     = "none"
  skip_resize_disk = true
  format           = "qcow2"
  disk_interface   = "virtio"
  disk_discard     = "unmap"
  vm_name          = var.guest
  output_directory = var.output

  accelerator = var.accelerator
  memory      = var.memory_mib
  cpus        = var.cpus
  headless    = true
  qemuargs = concat(var.boot, [
    ["-cpu", "max"],
    ["-serial", "file:${var.console}"],
    # On loopback alone: Packer's own way would listen to everybody.
    ["-netdev", "user,id=user.0,hostfwd=tcp:127.0.0.1:{{ .SSHHostPort }}-:22"],
  ])

  communicator           = "ssh"
  ssh_username           = "root"
  ssh_private_key_file   = var.key_file
  ssh_timeout            = "15m"
  ssh_handshake_attempts = 100 # Ubuntu's socket takes calls long before cloud-init has let anybody in
  shutdown_command       = "systemctl poweroff"
  shutdown_timeout       = "5m"
}

build {
  sources = ["source.qemu.machine"]

  provisioner "file" {
    source      = "${var.common}/files"
    destination = "/tmp/phoenix"
  }

  provisioner "shell" {
    environment_vars = [
      "PHOENIX_FAMILY=${var.family}",
      "PHOENIX_VERSION=${var.version}",
      "PHOENIX_FILES=/tmp/phoenix",
      "PHOENIX_LAYERS=${var.layers}",
    ]
    script = "${var.common}/provision.sh"
  }

  post-processor "manifest" {
    output = var.manifest
  }
}
