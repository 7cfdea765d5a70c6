package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// session is a process that is asked one thing after another, so that it need
// not start a process for each turn that it takes.
type session struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	to  *json.Encoder
	out *json.Decoder
}

// registerSession makes a task of a function that answers what it is asked
// until its standard input ends.
func registerSession[In, Out any](name string, answer func(In) (Out, error)) {
	lab.Register(name, func(struct{}) (struct{}, error) {
		questions, answers := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
		if err := answers.Encode(struct{}{}); err != nil { // there
			return struct{}{}, err
		}
		for {
			var in In
			err := questions.Decode(&in)
			if errors.Is(err, io.EOF) {
				return struct{}{}, nil
			}
			if err != nil {
				return struct{}{}, err
			}
			out, err := answer(in)
			if err != nil {
				return struct{}{}, err
			}
			if err := answers.Encode(out); err != nil {
				return struct{}{}, err
			}
		}
	})
}

// startSession starts a task in the pod's container, or as a process of the
// node if p is nil.
func startSession(p *lab.Pod, name string) (*session, error) {
	s := &session{cmd: exec.CommandContext(context.Background(), lab.Program())}
	s.cmd.Env, s.cmd.Stderr = lab.TaskEnvironment(name), os.Stderr
	in, err := s.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.in, s.to, s.out = in, json.NewEncoder(in), json.NewDecoder(out)
	start := s.cmd.Start
	if p != nil {
		start = func() error { return p.Start(s.cmd) }
	}
	if err := start(); err != nil {
		return nil, err
	}
	// The task's own input; what it is asked comes once it is there.
	if err := s.ask(struct{}{}, &struct{}{}); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), s.end())
	}
	return s, nil
}

// ask puts a question and reads the answer.
func (s *session) ask(question, answer any) error {
	if err := s.to.Encode(question); err != nil {
		return err
	}
	return s.out.Decode(answer)
}

// number asks for a number.
func (s *session) number(question any) (v float64, err error) {
	return v, s.ask(question, &v)
}

// end ends the process.
func (s *session) end() error {
	_ = s.in.Close()
	return s.cmd.Wait()
}
