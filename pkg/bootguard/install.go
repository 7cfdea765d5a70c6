package bootguard

import (
	"fmt"
	"os"
)

// Install writes what the boot guard needs to the host and enables its unit
// from the next boot on. What is there already is not written again. The link
// that enables the unit comes last: there is no moment, whenever the node goes
// down, at which a boot would find half of it.
func Install(o Options) error {
	text, err := unitFile(o)
	if err != nil {
		return err
	}
	program, err := os.ReadFile(o.Self)
	if err != nil {
		return fmt.Errorf("bootguard: read the program: %w", err)
	}
	// First of all, so that who uninstalls meanwhile knows of the rest.
	if err := o.noteInstalled(); err != nil {
		return err
	}
	if err := WriteFile(o.at(o.Config), o.Settings, 0o600); err != nil {
		return err
	}
	if err := WriteFile(o.at(o.Program), program, 0o755); err != nil {
		return err
	}
	if err := WriteFile(o.at(o.unit()), text, 0o644); err != nil {
		return err
	}
	return writeLink(o.at(o.link()), o.unit())
}
