// Package client is what the suite's Go clients have in common: their
// arguments, and what they print. Each client is a module of its own, since
// they need different versions of one library.
//
// They send to 169.254.169.254 by nature. The suite runs them where that
// address is its own; nobody else should run them.
package client

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// limit ends a client whose library waits longer than any application would.
const limit = time.Minute

// Request says what to ask for. It is the first four of the program's
// arguments; the fifth, a vault's URL, is for clients that use one.
type Request struct {
	// Mode is "managed", for the library's managed identity credential, or
	// "default", for the chain that looks for one.
	Mode string
	// By is "none", "client", "object" or "resource": how the identity is
	// named.
	By string
	// ID names the identity; empty with "none".
	ID string
	// Resource is what the token is for, as IMDS has it.
	Resource string
}

// Scope returns the resource in Entra's v2.0 form.
func (r Request) Scope() string { return r.Resource + "/.default" }

// ErrUnknown returns the error of a client that lacks what is asked for.
func (r Request) ErrUnknown() error {
	return fmt.Errorf("this client knows no mode %q with an identity named by %q", r.Mode, r.By)
}

// Credential returns an access token each time it is called.
type Credential func(context.Context) (string, error)

// result is the line that a client prints.
type result struct {
	Tokens []string `json:"tokens"` // secret: the suite reads them from a pipe
	Cloud  string   `json:"cloud,omitempty"`
	Error  string   `json:"error"`
}

// Main opens one credential, gets a token from it twice, as an application
// would that makes two calls, and prints what came back.
func Main(open func(Request) (Credential, error)) {
	asked := requested()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	answer(run(ctx, asked, open))
}

// Detect runs the detector that the second argument names, and prints what it
// takes this machine for: "azure …" or "none", or an error.
func Detect(detectors map[string]func(context.Context) (string, error)) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	detect, ok := detectors[os.Args[2]]
	if !ok {
		fmt.Fprintf(os.Stderr, "this client has no detector %q\n", os.Args[2])
		os.Exit(2)
	}
	r := result{Tokens: []string{}}
	var err error
	if r.Cloud, err = detect(ctx); err != nil {
		r.Error = err.Error()
	}
	answer(r)
}

// Use has the library use what it gets tokens for, and prints whether it could.
// The tokens are seen where they are sent.
func Use(use func(context.Context, Request) error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	r := result{Tokens: []string{}}
	if err := use(ctx, requested()); err != nil {
		r.Error = err.Error()
	}
	answer(r)
}

// requested returns what the arguments ask for.
func requested() Request {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: managed|default none|client|object|resource ID RESOURCE VAULT")
		os.Exit(2)
	}
	return Request{Mode: os.Args[1], By: os.Args[2], ID: os.Args[3], Resource: os.Args[4]}
}

func answer(r result) {
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, asked Request, open func(Request) (Credential, error)) result {
	var r result
	credential, err := open(asked)
	for range 2 {
		if err != nil {
			break
		}
		var token string
		if token, err = credential(ctx); err == nil {
			r.Tokens = append(r.Tokens, token)
		}
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}
