# Any family on Docker: a container from the seed, provisioned, committed, pushed to the registry.
#
# Readable by Debian's Packer 1.6.6, which has every plugin built in and knows no required_plugins. A current Packer
# takes its plugins from plugins/: run `packer init plugins` once, then build this same file.

variable "family" { type = string }
variable "version" { type = string }
variable "seed" { type = string }
variable "registry" { type = string }
variable "repository" { type = string }
variable "manifest" { type = string }
variable "common" { type = string }

# Names the build's container, so that one which outlives a killed build can be told from everything else.
variable "build_id" { type = string }
variable "build_until" { type = string }

variable "registry_login" {
  type    = bool
  default = false
}
variable "registry_user" {
  type    = string
  default = ""
}
variable "registry_password" {
  type      = string
  default   = ""
  sensitive = true
}

source "docker" "container" {
  image  = var.seed
  pull   = false
  commit = true
  # Where Packer mounts its exchange folder. Any other place would leave an empty folder in the image.
  container_dir = "/mnt"
  # A commit keeps the stop signal of the container, and knows no STOPSIGNAL among its changes.
  run_command = [
    "-d", "-i", "--stop-signal=SIGHUP", "--name", "phoenix-build-${var.build_id}",
    "--label", "phoenix.build=${var.build_id}", "--label", "phoenix.build-until=${var.build_until}",
    "--entrypoint=/bin/sh", "--", "{{.Image}}",
  ]
  # A commit keeps the container's labels too: what marks a build must not mark those born from it.
  changes = [
    "ENTRYPOINT [\"/usr/local/sbin/phoenix-init\"]",
    "CMD []",
    "EXPOSE 22",
    "LABEL phoenix.build= phoenix.build-until= phoenix.owner=phoenix-fleet phoenix.family=${var.family} phoenix.version=${var.version}",
  ]
}

build {
  sources = ["source.docker.container"]

  provisioner "file" {
    source      = "${var.common}/files"
    destination = "/tmp/phoenix"
  }

  provisioner "shell" {
    environment_vars = [
      "PHOENIX_FAMILY=${var.family}",
      "PHOENIX_VERSION=${var.version}",
      "PHOENIX_FILES=/tmp/phoenix",
      "PHOENIX_LAYERS=common container",
    ]
    script = "${var.common}/provision.sh"
  }

  post-processors {
    post-processor "docker-tag" {
      repository = "${var.registry}/${var.repository}"
      tags       = ["${var.version}-candidate"]
    }
    post-processor "docker-push" {
      login          = var.registry_login
      login_server   = var.registry
      login_username = var.registry_user
      login_password = var.registry_password
    }
    post-processor "manifest" {
      output = var.manifest
    }
  }
}
