// Command image writes a container image of one layer from files of this
// machine, without a container engine:
//
//	image -o pause.tar -name sidestep.test/pause:1 -file ./pause:/pause -entrypoint /pause
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/sidestep-agent/sidestep/test/node/image"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	out, img, err := parse(args)
	if err != nil {
		return err
	}
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	if err := img.Write(file); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}

func parse(args []string) (string, image.Image, error) {
	img := image.Image{Config: image.Config{Labels: map[string]string{}}}
	flags := flag.NewFlagSet("image", flag.ExitOnError)
	out := flags.String("o", "", "archive to write")
	flags.StringVar(&img.Name, "name", "", "name with tag")
	flags.StringVar(&img.Architecture, "arch", runtime.GOARCH, "processor, as GOARCH names it")
	flags.StringVar(&img.Config.User, "user", "", "user[:group] as numbers; empty: root")
	flags.StringVar(&img.Config.WorkingDir, "workdir", "/", "working directory")
	flags.Func("entrypoint", "a word of the entrypoint; repeat", appendTo(&img.Config.Entrypoint))
	flags.Func("env", "NAME=value; repeat", appendTo(&img.Config.Env))
	flags.Func("label", "name=value; repeat", func(s string) error {
		name, value, ok := strings.Cut(s, "=")
		img.Config.Labels[name] = value
		return wellFormed(ok)
	})
	flags.Func("file", "source:/path[:mode]; repeat; mode 755 unless said", func(s string) error {
		source, rest, ok := strings.Cut(s, ":")
		return add(&img, image.File{Source: source}, rest, ok)
	})
	flags.Func("dir", "/path[:mode]; repeat", func(s string) error {
		return add(&img, image.File{Dir: true}, s, true)
	})
	flags.Func("link", "/path=target; repeat", func(s string) error {
		path, target, ok := strings.Cut(s, "=")
		return add(&img, image.File{Link: target}, path, ok && target != "")
	})
	if err := flags.Parse(args); err != nil {
		return "", img, err
	}
	if *out == "" || img.Name == "" || flags.NArg() > 0 {
		return "", img, fmt.Errorf("-o and -name are needed, and nothing but flags is taken")
	}
	return *out, img, nil
}

func appendTo(list *[]string) func(string) error {
	return func(s string) error {
		*list = append(*list, s)
		return nil
	}
}

// add completes f by "/path[:mode]".
func add(img *image.Image, f image.File, rest string, ok bool) error {
	path, digits, hasMode := strings.Cut(rest, ":")
	if !hasMode {
		digits = "755"
	}
	mode, err := strconv.ParseUint(digits, 8, 12)
	if err != nil {
		return err
	}
	f.Path = path
	f.Mode = os.FileMode(mode & 0o777)
	if mode&0o1000 != 0 {
		f.Mode |= os.ModeSticky
	}
	img.Files = append(img.Files, f)
	return wellFormed(ok && strings.HasPrefix(path, "/"))
}

func wellFormed(ok bool) error {
	if !ok {
		return fmt.Errorf("not of that form")
	}
	return nil
}
