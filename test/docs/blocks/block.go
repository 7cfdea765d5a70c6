package blocks

import (
	"fmt"
	"regexp"
	"strings"
)

// Where a block runs.
const (
	// Machine is a shell on the machine, in the tree: `make test-docs`.
	Machine = "machine"
	// Node is a shell in the rig's node, with kubectl: `make test-node`.
	Node = "node"
	// Rig is the machine while a node is up: `make test-node`.
	Rig = "rig"
	// Fresh is a Debian that has nothing yet: `make test-fresh`.
	Fresh = "fresh"
	// Clients is the machine once the clients are installed: `make test-clients`.
	Clients = "clients"
	// Make has targets only that are part of `make test-all`.
	Make = "make"
)

// Block is a fenced block of commands.
type Block struct {
	Page    string // its path in the repository
	Line    int    // of its fence
	Section string // the heading that it stands below
	Text    string // the commands, without the fence and its indentation
	Run     string // the place, or empty
	Needs   string // the tool, or empty
	Shows   string // what the page says that it prints, or empty
}

func (b Block) String() string { return fmt.Sprintf("%s:%d", b.Page, b.Line) }

// commands are those that the pages call.
const commands = `(?:make|kubectl|helm|agent|az|go|git|docker|curl)\s`

var (
	fence   = regexp.MustCompile("^( *)```(\\w*)$")
	heading = regexp.MustCompile(`^#+ (.+)$`)
	marker  = regexp.MustCompile(`^ *<!-- (run|needs|shows)(?:: (\S+))? -->$`)
	// shells are the names by which fences say that they hold commands.
	shells = map[string]bool{"sh": true, "bash": true, "shell": true, "console": true}
	// hidden begins a block of commands whose fence does not say so, and
	// indented is the other form of a block.
	hidden   = regexp.MustCompile(`^(?:\$ )?` + commands)
	indented = regexp.MustCompile(`^ {4,}(?:\$ )?` + commands)
)

// Parse returns a page's blocks of commands in their order. A fence without an
// end, commands in a fence without a language, and output that no block before
// it could have printed, are errors.
func Parse(page, text string) ([]Block, error) {
	var all []Block
	section := ""
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		if h := heading.FindStringSubmatch(lines[i]); h != nil {
			section = h[1]
		}
		f := fence.FindStringSubmatch(lines[i])
		if f == nil {
			if indented.MatchString(lines[i]) {
				return nil, fmt.Errorf("%s:%d: commands that stand in no fence", page, i+1)
			}
			continue
		}
		b := Block{Page: page, Line: i + 1, Section: section}
		shows := false
		if i > 0 {
			shows = b.mark(lines[i-1])
		}
		end := closing(lines, i+1, f[1])
		if end < 0 {
			return nil, fmt.Errorf("%s: the fence has no end", b)
		}
		b.Text = dedent(lines[i+1:end], f[1])
		switch {
		case shows && len(all) == 0:
			return nil, fmt.Errorf("%s: no block before it prints this", b)
		case shows:
			all[len(all)-1].Shows = b.Text
		case shells[f[2]]:
			all = append(all, b)
		case f[2] == "" && hidden.MatchString(b.Text):
			return nil, fmt.Errorf("%s: commands in a fence that is not of sh", b)
		}
		i = end
	}
	return all, nil
}

// mark reads the line above the fence. It reports whether that says that the
// block is the output of another.
func (b *Block) mark(above string) (shows bool) {
	m := marker.FindStringSubmatch(above)
	if m == nil {
		return false
	}
	switch m[1] {
	case "run":
		b.Run = m[2]
	case "needs":
		b.Needs = m[2]
	}
	return m[1] == "shows"
}

func closing(lines []string, from int, indent string) int {
	for i := from; i < len(lines); i++ {
		if lines[i] == indent+"```" {
			return i
		}
	}
	return -1
}

func dedent(lines []string, indent string) string {
	var text strings.Builder
	for _, l := range lines {
		text.WriteString(strings.TrimPrefix(l, indent) + "\n")
	}
	return text.String()
}

// Commands returns the block's commands: lines, joined where the shell would
// join them, without comments.
func (b Block) Commands() []string {
	joined := regexp.MustCompile(`(\\|\||&&)\n\s*`).ReplaceAllStringFunc(b.Text, func(end string) string {
		return strings.TrimPrefix(strings.TrimSpace(end), `\`) + " "
	})
	var all []string
	for line := range strings.Lines(joined) {
		line, _, _ = strings.Cut(" "+line, " #")
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return all
}
