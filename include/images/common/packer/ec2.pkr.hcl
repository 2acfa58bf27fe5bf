# Any family on Amazon EC2: a machine from a published AMI, provisioned, kept as an AMI of ours.
#
# Readable by Debian's Packer 1.6.6, which has every plugin built in and knows no required_plugins. A current Packer
# takes its plugins from plugins/: run `packer init plugins` once, then build this same file.
# Credentials come by Packer's environment; none is a variable.

variable "family" { type = string }
variable "version" { type = string }
variable "common" { type = string }
variable "manifest" { type = string }

variable "region" { type = string }
variable "endpoint" {
  type    = string
  default = ""
}
variable "source_owner" { type = string }
variable "source_ami" { type = string }
variable "subnet" { type = string }
variable "instance_type" { type = string }
variable "device" { type = string }
variable "disk_gib" { type = number }
variable "encrypt" { type = bool }
variable "kms_key" { type = string }

variable "ssh_username" { type = string }
variable "ssh_interface" { type = string }
variable "security_group" { type = string }
variable "key_name" { type = string }
# Where a tunnel leads to the machine, if the worker does not reach it itself.
variable "ssh_host" {
  type    = string
  default = ""
}
variable "ssh_port" {
  type    = number
  default = 22
}

variable "ami_name" { type = string }
variable "ami_description" { type = string }
# On everything that is made, from its birth: by them a later sweep finds what a killed build has left.
variable "marks" { type = map(string) }

source "amazon-ebs" "machine" {
  region                      = var.region
  custom_endpoint_ec2         = var.endpoint
  skip_region_validation      = true
  skip_credential_validation  = true
  skip_metadata_api_check     = true
  subnet_id                   = var.subnet
  instance_type               = var.instance_type
  security_group_id           = var.security_group
  associate_public_ip_address = var.ssh_interface == "public_ip"

  # The newest one of that name, as looked up a moment ago: what is built is what was checked.
  source_ami_filter {
    filters = {
      image-id            = var.source_ami
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
    owners      = [var.source_owner]
    most_recent = true
  }

  # Encrypted from the first byte: encrypting a copy afterwards would leave one more AMI to a crash.
  launch_block_device_mappings {
    device_name           = var.device
    volume_type           = "gp3"
    iops                  = 3000 # these two are what gp3 has anyway; Packer 1.6 wants to be told
    throughput            = 125
    volume_size           = var.disk_gib
    encrypted             = var.encrypt
    kms_key_id            = var.kms_key
    delete_on_termination = true
  }

  communicator              = "ssh"
  ssh_username              = var.ssh_username
  ssh_interface             = var.ssh_interface
  ssh_host                  = var.ssh_host
  ssh_port                  = var.ssh_port
  ssh_timeout               = "10m"
  ssh_clear_authorized_keys = true
  temporary_key_pair_name   = var.key_name

  run_tags        = var.marks
  run_volume_tags = var.marks
  tags            = var.marks
  snapshot_tags   = var.marks

  ami_name        = var.ami_name
  ami_description = var.ami_description
}

build {
  sources = ["source.amazon-ebs.machine"]

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
