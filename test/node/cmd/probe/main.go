// Command probe is what the pods of the node tests run:
//
//	probe wait                        stays until it is asked to stop
//	probe serve 127.0.0.1:8000 TEXT   answers each request with TEXT
//	probe get [flags] URL             asks once, and prints one JSON object
//	probe load [flags] CLIENT-ID      asks all the time, and prints a tally each second
//	probe apart COMMAND               the command in a network namespace of its own
//	probe join FILE COMMAND           the command in the network namespace FILE
//	probe below NAME COMMAND          the command in a cgroup NAME, made below its own
//
// get exits with 0 whatever it was answered: the object says it. A command is
// any of these, so that they can be combined.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/sidestep-agent/sidestep/test/load"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case len(args) == 1 && args[0] == "wait":
		<-ctx.Done()
		return nil
	case len(args) == 3 && args[0] == "serve":
		return serve(ctx, args[1], args[2])
	case len(args) > 1 && args[0] == "get":
		return get(ctx, args[1:])
	case len(args) > 1 && args[0] == "load":
		return askAlways(ctx, args[1:])
	case len(args) > 1 && args[0] == "apart":
		return apart(args[1:])
	case len(args) > 2 && args[0] == "join":
		return join(args[1], args[2:])
	case len(args) > 2 && args[0] == "below":
		return below(args[1], args[2:])
	}
	return fmt.Errorf("%q is none of wait, serve ADDRESS TEXT, get [flags] URL, load [flags] CLIENT-ID, apart, join FILE, below NAME and a command", args)
}

func serve(ctx context.Context, address, text string) error {
	server := &http.Server{
		Addr: address, ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }),
	}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ListenAndServe(); ctx.Err() == nil {
		return err
	}
	return nil
}

func askAlways(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	var o load.Options
	flags.BoolVar(&o.Keep, "keep", false, "keep connections")
	flags.IntVar(&o.Workers, "workers", 1, "how many ask at a time")
	flags.DurationVar(&o.Every, "every", time.Second, "how often each of them asks")
	flags.DurationVar(&o.Idle, "idle", time.Second, "how often each fourth of them asks")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o.Client = flags.Arg(0)
	out := json.NewEncoder(os.Stdout)
	return out.Encode(load.Run(ctx, o, func(t load.Tally) { _ = out.Encode(t) }))
}

// answer is what get prints.
type answer struct {
	Status     int    `json:"status"` // 0: there was none
	RetryAfter string `json:"retryAfter,omitempty"`
	Body       string `json:"body,omitempty"`
	Error      string `json:"error,omitempty"`
	MS         int64  `json:"ms"`
}

func get(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("get", flag.ContinueOnError)
	timeout := flags.Duration("timeout", 3*time.Second, "limit for all of it")
	bare := flags.Bool("bare", false, "without the header Metadata")
	mapped := flags.Bool("mapped", false, "by an IPv6 socket, to the address as ::ffff:a.b.c.d")
	every := flags.Duration("every", 0, "ask again after as long, each time on a new connection, until asked to stop")
	if err := flags.Parse(args); err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, flags.Arg(0), nil)
	if err != nil {
		return err
	}
	if !*bare {
		request.Header.Set("Metadata", "true")
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if *mapped {
		transport.DialContext = dialMapped
	}
	client := &http.Client{Timeout: *timeout, Transport: transport}
	for {
		start := time.Now()
		a := ask(client, request)
		a.MS = time.Since(start).Milliseconds()
		if err := json.NewEncoder(os.Stdout).Encode(a); err != nil || *every == 0 {
			return err
		}
		select {
		case <-time.After(*every):
		case <-ctx.Done():
			return nil
		}
	}
}

func ask(client *http.Client, request *http.Request) answer {
	response, err := client.Do(request)
	if err != nil {
		return answer{Error: err.Error()}
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	a := answer{Status: response.StatusCode, RetryAfter: response.Header.Get("Retry-After"), Body: strings.TrimSpace(string(body))}
	if err != nil {
		a.Error = err.Error()
	}
	return a
}

// dialMapped connects an IPv6 socket to an IPv4 address, as Java and .NET do.
// The standard library would take an IPv4 socket.
func dialMapped(_ context.Context, _, address string) (net.Conn, error) {
	to, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return nil, err
	}
	fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "socket")
	defer func() { _ = file.Close() }()
	if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 0); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet6{Port: to.Port, Addr: [16]byte(to.IP.To16())}); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(file)
}
