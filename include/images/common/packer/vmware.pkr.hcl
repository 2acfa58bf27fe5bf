# Any family on VMware vSphere: a clone of a template, provisioned, kept as a template of ours.
#
# Readable by Debian's Packer 1.6.6, which has every plugin built in and knows no required_plugins. A current Packer
# takes its plugins from plugins/: run `packer init plugins` once, then build this same file.
# vCenter's certificate is verified, by what SSL_CERT_FILE names.

variable "family" { type = string }
variable "version" { type = string }
variable "common" { type = string }
variable "manifest" { type = string }

variable "vcenter" { type = string }
variable "vcenter_user" { type = string }
variable "vcenter_password" {
  type      = string
  sensitive = true
}
variable "datacenter" { type = string }
variable "cluster" { type = string }
variable "host" { type = string }
variable "datastore" { type = string }
variable "folder" { type = string }
variable "resource_pool" { type = string }
variable "network" { type = string }
variable "source" { type = string }
variable "snapshot" { type = bool }

variable "ssh_username" { type = string }
variable "key_file" { type = string }
# Where a tunnel leads to the machine, if the worker does not reach it itself.
variable "ssh_host" {
  type    = string
  default = ""
}
variable "ssh_port" {
  type    = number
  default = 22
}

# The name says whose it is and until when; the notes say the same, from the moment of the clone on.
variable "vm_name" { type = string }
variable "notes" { type = string }
variable "marks" { type = map(string) }

source "vsphere-clone" "machine" {
  vcenter_server = var.vcenter
  username       = var.vcenter_user
  password       = var.vcenter_password
  datacenter     = var.datacenter
  cluster        = var.cluster
  host           = var.host
  datastore      = var.datastore
  folder         = var.folder
  resource_pool  = var.resource_pool
  network        = var.network

  template                 = var.source
  vm_name                  = var.vm_name
  notes                    = var.notes
  configuration_parameters = var.marks

  communicator         = "ssh"
  ssh_username         = var.ssh_username
  ssh_private_key_file = var.key_file
  ssh_host             = var.ssh_host
  ssh_port             = var.ssh_port
  ssh_timeout          = "15m"

  create_snapshot     = var.snapshot
  convert_to_template = true
}

build {
  sources = ["source.vsphere-clone.machine"]

  provisioner "file" {
    source      = "${var.common}/files"
    destination = "/tmp/phoenix"
  }

  provisioner "shell" {
    environment_vars = [
      "PHOENIX_FAMILY=${var.family}",
      "PHOENIX_VERSION=${var.version}",
      "PHOENIX_FILES=/tmp/phoenix",
      "PHOENIX_LAYERS=common machine",
    ]
    execute_command = var.ssh_username == "root" ? "env {{ .Vars }} {{ .Path }}" : "sudo -n env {{ .Vars }} {{ .Path }}"
    script          = "${var.common}/provision.sh"
  }

  post-processor "manifest" {
    output = var.manifest
  }
}
