package bootguard

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Options say what the unit does.
type Options struct {
	Files
	// Self is the program that is copied to Files.Program.
	Self string
	// Settings is the content of Files.Config.
	Settings []byte
	// Arguments are the program's when the unit runs it.
	Arguments []string
	// Capabilities are those that the unit leaves it, by their kernel names.
	Capabilities []string
	// CgroupRoot and BPFFS are mounts that the unit may write to.
	CgroupRoot, BPFFS string
}

//go:embed sidestep-boot-guard.service
var unitText string

// unitFile returns the text of the unit.
func unitFile(o Options) ([]byte, error) {
	// RuntimeDirectory= is relative to /run, and knows no other place.
	runtimeDir, ok := strings.CutPrefix(filepath.Clean(o.StateDir), "/run/")
	if !ok {
		return nil, fmt.Errorf("bootguard: the state directory is %s: it must be below /run, which a boot empties", o.StateDir)
	}
	for _, path := range []string{o.Program, o.Config, o.StateDir, o.CgroupRoot, o.BPFFS, "/" + o.KubeletUnit} {
		if !plainPath.MatchString(path) {
			return nil, fmt.Errorf("bootguard: %q cannot be named in a unit: it must be absolute, of letters, digits and ._:@+-", path)
		}
	}
	// Not text/template: with it the linker keeps every method of the program,
	// since one may be called by name, and the agent is 19 MB larger.
	return []byte(os.Expand(unitText, func(name string) string {
		return map[string]string{
			"KubeletUnit":      o.KubeletUnit,
			"ProgramDirectory": filepath.Dir(o.Program),
			"ConfigDirectory":  filepath.Dir(o.Config),
			"Command":          command(o.Program, o.Arguments),
			"Capabilities":     strings.Join(o.Capabilities, " "),
			"RuntimeDirectory": runtimeDir,
			"CgroupRoot":       o.CgroupRoot,
			"BPFFS":            o.BPFFS,
		}[name]
	})), nil
}

// plainPath are paths that mean the same in every setting of a unit. What
// splits lists, quotes and specifiers is not in them.
var plainPath = regexp.MustCompile(`^(/[A-Za-z0-9._:@+-]+)+$`)

// command returns a command line that systemd splits into these words: each is
// in quotes, and what would end them, a specifier or a variable is escaped
// (systemd.syntax(7), systemd.service(5)).
func command(program string, arguments []string) string {
	line := program
	escaper := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "%", "%%", "$", "$$")
	for _, word := range arguments {
		line += ` "` + escaper.Replace(word) + `"`
	}
	return line
}
