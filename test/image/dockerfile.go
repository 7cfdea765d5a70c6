package main

import (
	"fmt"
	"os"
	"strings"
)

// dockerfile is a Dockerfile's stages in their order.
type dockerfile []stage

type stage struct {
	base, name   string // FROM base AS name
	instructions []instruction
}

// instruction is one line of a stage, its continuations joined.
type instruction struct {
	line    int
	keyword string // in capitals
	args    string
}

func readDockerfile(path string) (dockerfile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d, err := parseDockerfile(string(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

// parseDockerfile reads what this project's Dockerfile uses of the language:
// comments, continued lines, stages.
func parseDockerfile(text string) (dockerfile, error) {
	var d dockerfile
	for _, in := range instructions(text) {
		if in.keyword == "FROM" {
			d = append(d, newStage(in.args))
			continue
		}
		if len(d) == 0 {
			return nil, fmt.Errorf("line %d: %s before the first FROM", in.line, in.keyword)
		}
		last := &d[len(d)-1]
		last.instructions = append(last.instructions, in)
	}
	if len(d) == 0 {
		return nil, fmt.Errorf("no FROM")
	}
	return d, nil
}

// instructions joins continued lines; comments may stand between them.
func instructions(text string) []instruction {
	var all []instruction
	var open *instruction
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		line, continued := strings.CutSuffix(line, `\`)
		if open == nil {
			keyword, args, _ := strings.Cut(line, " ")
			all = append(all, instruction{line: i + 1, keyword: strings.ToUpper(keyword), args: strings.TrimSpace(args)})
			open = &all[len(all)-1]
		} else {
			open.args += " " + strings.TrimSpace(line)
		}
		if !continued {
			open = nil
		}
	}
	return all
}

// newStage reads "[--platform=p] base [AS name]".
func newStage(args string) stage {
	words := strings.Fields(args)
	for len(words) > 0 && strings.HasPrefix(words[0], "--") {
		words = words[1:]
	}
	var s stage
	if len(words) > 0 {
		s.base = words[0]
	}
	if len(words) == 3 && strings.EqualFold(words[1], "AS") {
		s.name = words[2]
	}
	return s
}
