// Command firstprocess is what a pod runs first in the benchmark: as little of
// a program as asks the metadata service for a token at its first instruction.
// Its exit status says where the kernel led it.
package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Exit statuses besides 0, which is as asked for.
const (
	held    = 10 // led to the node listener
	refused = 11 // connect() failed
	failed  = 12 // no token
)

// Called with no argument it connects and looks where it was led. With a path
// it asks for that once and prints the status of the answer. With a resource, and how often, it asks for tokens on one connection and on one of
// its own each in turn.
func main() {
	if len(os.Args) < 2 {
		os.Exit(connect())
	}
	if len(os.Args) == 2 {
		os.Exit(request(os.Args[1]))
	}
	count, err := strconv.Atoi(os.Args[2])
	if err != nil {
		os.Exit(failed)
	}
	// A held caller is answered after 25 s at the latest.
	time.AfterFunc(time.Minute, func() { fail("nothing came for a minute") })
	kept := -1
	for i := range count {
		if i%2 == 0 {
			if kept < 0 {
				kept = dial()
			}
			ask(kept, os.Args[1])
			continue
		}
		fd := dial()
		ask(fd, os.Args[1])
		_ = unix.Close(fd)
	}
}

// connect prints when it connects, on the clock CLOCK_MONOTONIC, and returns
// where the kernel led the connect. A steered one ends on the loopback link; a
// held one, or one that passed, leaves the pod.
func connect() int {
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) != nil {
		return failed
	}
	defer func() { _, _ = os.Stdout.WriteString(strconv.FormatInt(now.Nano(), 10)) }()
	local, err := unix.Getsockname(dial())
	at, ok := local.(*unix.SockaddrInet4)
	if err != nil || !ok {
		return failed
	}
	if at.Addr == [4]byte{127, 0, 0, 1} {
		return 0
	}
	return held
}

// request prints the status of the answer to a request for the path.
func request(path string) int {
	time.AfterFunc(time.Minute, func() { fail("nothing came for a minute") })
	fd := dial()
	_, err := unix.Write(fd, []byte("GET "+path+" HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n"))
	if err != nil {
		fail("send: " + err.Error())
	}
	answer := make([]byte, 0, 64)
	for {
		n, err := unix.Read(fd, answer[len(answer):cap(answer)])
		if err != nil || n <= 0 {
			fail(fmt.Sprintf("the connection ended: %v", err))
		}
		answer = answer[:len(answer)+n]
		if _, rest, ok := bytes.Cut(answer, []byte("HTTP/1.1 ")); ok && len(rest) >= 3 {
			_, _ = os.Stdout.Write(rest[:3])
			return 0
		}
	}
}

func dial() int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		os.Exit(failed)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{169, 254, 169, 254}, Port: 80}); err != nil {
		_, _ = os.Stderr.WriteString("connect: " + err.Error())
		os.Exit(refused)
	}
	return fd
}

// ask asks for a token and reads the answer, or ends the program.
func ask(fd int, resource string) {
	_, err := unix.Write(fd, []byte("GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource="+resource+
		" HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n"))
	if err != nil {
		fail("send: " + err.Error())
	}
	answer := make([]byte, 0, 16<<10)
	for {
		n, err := unix.Read(fd, answer[len(answer):cap(answer)])
		if err != nil || n <= 0 {
			fail("the connection ended, or nothing came")
		}
		answer = answer[:len(answer)+n]
		if bytes.HasSuffix(answer, []byte(`"token_type":"Bearer"}`)) {
			return
		}
		if !bytes.HasPrefix(answer, []byte("HTTP/1.1 200 ")) && bytes.HasSuffix(answer, []byte("}")) {
			fail(string(answer))
		}
	}
}

func fail(why string) {
	_, _ = os.Stderr.WriteString(why)
	os.Exit(failed)
}
