package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"strings"
)

// image is what a Dockerfile's last stage declares.
type image struct {
	labels     map[string]string
	user       string
	entrypoint []string
	cmd        []string
	copies     []copied
}

// copied is one COPY --from a stage: the file at source there, at target in
// the image.
type copied struct {
	from           stage
	source, target string
}

// image returns what the last stage declares, given the build's arguments.
// Whatever it does not know is an error, so that an image never lacks it in
// silence.
func (d dockerfile) image(buildArgs map[string]string) (*image, error) {
	last := d[len(d)-1]
	if last.base != "scratch" {
		return nil, fmt.Errorf("the last stage is FROM %s: only scratch can be made without an engine", last.base)
	}
	r := reader{dockerfile: d, buildArgs: buildArgs, args: map[string]string{}, img: &image{labels: map[string]string{}}}
	for _, in := range last.instructions {
		if err := r.read(in); err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", in.line, in.keyword, err)
		}
	}
	return r.img, nil
}

type reader struct {
	dockerfile dockerfile
	buildArgs  map[string]string // as given to the build
	args       map[string]string // as declared by ARG so far
	img        *image
}

func (r *reader) read(in instruction) (err error) {
	switch in.keyword {
	case "ARG":
		r.arg(in.args)
	case "LABEL":
		return r.label(in.args)
	case "COPY":
		return r.copy(in.args)
	case "USER":
		r.img.user, err = r.expand(in.args)
	case "ENTRYPOINT":
		err = json.Unmarshal([]byte(in.args), &r.img.entrypoint)
	case "CMD":
		err = json.Unmarshal([]byte(in.args), &r.img.cmd)
	default:
		return fmt.Errorf("not known here")
	}
	return err
}

func (r *reader) arg(args string) {
	name, value, _ := strings.Cut(args, "=")
	if given, ok := r.buildArgs[name]; ok {
		value = given
	}
	r.args[name] = value
}

func (r *reader) label(args string) error {
	words, err := splitWords(args)
	if err != nil {
		return err
	}
	for _, word := range words {
		key, value, ok := strings.Cut(word, "=")
		if !ok {
			return fmt.Errorf("%q is not key=value", word)
		}
		if r.img.labels[key], err = r.expand(value); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) copy(args string) error {
	words := strings.Fields(args)
	if len(words) != 3 {
		return fmt.Errorf("want --from, one file and its place")
	}
	name, ok := strings.CutPrefix(words[0], "--from=")
	if !ok {
		return fmt.Errorf("want --from first")
	}
	for _, p := range words[1:] {
		if !path.IsAbs(p) || path.Clean(p) != p {
			return fmt.Errorf("%s is not the full path of a file", p)
		}
	}
	for _, s := range r.dockerfile {
		if s.name == name {
			r.img.copies = append(r.img.copies, copied{from: s, source: words[1], target: words[2]})
			return nil
		}
	}
	return fmt.Errorf("there is no stage %s", name)
}

// expand replaces $NAME and ${NAME} by what ARG declared.
func (r *reader) expand(s string) (string, error) {
	var unknown error
	s = os.Expand(s, func(name string) string {
		value, ok := r.args[name]
		if !ok {
			unknown = fmt.Errorf("%s is not declared by ARG in this stage", name)
		}
		return value
	})
	return s, unknown
}

// splitWords splits at spaces outside of double quotes, and drops the quotes.
func splitWords(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	quoted := false
	for _, c := range s {
		switch {
		case c == '"':
			quoted = !quoted
		case c == ' ' && !quoted:
			if word.Len() > 0 {
				words = append(words, word.String())
				word.Reset()
			}
		default:
			word.WriteRune(c)
		}
	}
	if quoted {
		return nil, fmt.Errorf("a quote is not closed")
	}
	if word.Len() > 0 {
		words = append(words, word.String())
	}
	return words, nil
}
