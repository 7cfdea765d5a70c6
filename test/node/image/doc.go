// Package image writes a container image of one layer from files of this
// machine, where no container engine runs. The node rig's images are made with
// it through cmd/image. It builds nothing, pulls nothing and talks to no
// registry.
package image
