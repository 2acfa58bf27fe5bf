# Any family on libvirt (KVM, QEMU, Xen): a disk that was made from scratch, booted once and provisioned over SSH.
#
# Readable by Debian's Packer 1.6.6, which has every plugin built in and knows no required_plugins. A current Packer
# takes its plugins from plugins/: run `packer init plugins` once, then build this same file.

variable "family" { type = string }
variable "version" { type = string }
variable "common" { type = string }
variable "manifest" { type = string }

variable "disk" { type = string }
variable "kernel" { type = string }
variable "initrd" { type = string }
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
  qemuargs = [
    ["-cpu", "max"],
    ["-kernel", var.kernel],
    ["-initrd", var.initrd],
    ["-serial", "file:${var.console}"],
    ["-append", "root=LABEL=phoenix-root rw console=ttyS0 cloud-init=disabled"],
    # On loopback alone: Packer's own way would listen to everybody.
    ["-netdev", "user,id=user.0,hostfwd=tcp:127.0.0.1:{{ .SSHHostPort }}-:22"],
  ]

  communicator         = "ssh"
  ssh_username         = "root"
  ssh_private_key_file = var.key_file
  ssh_timeout          = "15m"
  shutdown_command     = "systemctl poweroff"
  shutdown_timeout     = "5m"
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
      "PHOENIX_LAYERS=common machine scratch",
    ]
    script = "${var.common}/provision.sh"
  }

  post-processor "manifest" {
    output = var.manifest
  }
}
