package main

import "github.com/sidestep-agent/sidestep/test/overlay"

// defence is one thing in the sources that stands in an attack's way, and how
// to take it out of them.
type defence struct {
	name  string
	edits []edit
	agent bool // some attack on it needs the agent's own program
}

// edit replaces the one place in a file where a text stands.
type edit struct{ file, old, new string }

// changes returns the defence's edits for the overlay.
func (d *defence) changes() []overlay.Edit {
	all := make([]overlay.Edit, len(d.edits))
	for i, e := range d.edits {
		all[i] = overlay.Edit{File: e.file, Old: e.old, New: e.new}
	}
	return all
}
