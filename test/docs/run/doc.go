// Package run runs the command blocks of the pages that need no cluster, as
// they stand, in the tree. `make test-docs` and, for those that need the
// clients installed, `make test-clients` run it. It is tests only.
package run
