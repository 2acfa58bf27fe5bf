# Only for a current Packer, which builds nothing without plugins: `packer init plugins` fetches them once. It takes
# Packer 1.14 or newer, which knows where these releases are published (docs/packer.md).
# It lies in a folder of its own because Packer 1.6 (Debian) has them built in and refuses this block.
packer {
  required_plugins {
    docker = {
      source  = "github.com/hashicorp/docker"
      version = "= 1.1.4"
    }
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = "= 1.8.2"
    }
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = "= 1.1.4"
    }
    vsphere = {
      source  = "github.com/hashicorp/vsphere"
      version = "= 1.4.2"
    }
  }
}
