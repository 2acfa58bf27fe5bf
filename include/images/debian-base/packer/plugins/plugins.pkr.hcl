# Only for a current Packer, which builds nothing without plugins: `packer init packer/plugins` fetches them once.
# It lies in a folder of its own because Packer 1.6 (Debian) has them built in and refuses this block.
packer {
  required_plugins {
    docker = {
      source  = "github.com/hashicorp/docker"
      version = ">= 1.0.0"
    }
  }
}
