package handover

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// versions are those of the messages that an agent speaks, all from the lowest
// to the highest. A version is a way to talk, not a release: raise the highest
// with a change that the other side must know of, and the lowest once no agent
// of before can be met in a rollout.
type versions struct{ Lowest, Highest int }

// spoken is what this program speaks.
var spoken = versions{Lowest: 1, Highest: 1}

func (v versions) String() string {
	if v.Lowest == v.Highest {
		return fmt.Sprintf("version %d", v.Lowest)
	}
	return fmt.Sprintf("versions %d to %d", v.Lowest, v.Highest)
}

// common returns the highest version that both speak; 0 if there is none.
func (v versions) common(other versions) int {
	highest := min(v.Highest, other.Highest)
	if highest < max(v.Lowest, other.Lowest) {
		return 0
	}
	return highest
}

const (
	// maxMessage is more than the longest token with its key, and less than
	// the kernel's default buffer of a socket (net.core.wmem_default).
	maxMessage = 160 << 10
)

// stepTimeout bounds each message until the lock passes, in nanoseconds: an
// agent that hangs holds up no other.
var stepTimeout atomic.Int64

func init() { stepTimeout.Store(int64(10 * time.Second)) }

func step() time.Duration { return time.Duration(stepTimeout.Load()) }

// kind is what a message says.
type kind string

const (
	hello    kind = "hello"    // successor: give me what you hold
	refusal  kind = "refusal"  // holder: no, and why
	agreed   kind = "agreed"   // holder, from version 2 on: in this version
	lock     kind = "lock"     // holder: the lock, as a descriptor
	socket   kind = "socket"   // holder: this socket's listener, as a descriptor
	listener kind = "listener" // holder: a listener, as a descriptor
	token    kind = "token"    // holder: a cached token
	whole    kind = "whole"    // holder: that was all
	taken    kind = "taken"    // successor: I have it
	yours    kind = "yours"    // holder: it is
)

type message struct {
	Kind kind `json:"kind"`
	// Version is the lowest that a successor speaks, Highest the highest. An
	// agent of before ranges knows the former alone, and must find its own there.
	Version  int       `json:"version,omitempty"`
	Highest  int       `json:"highest,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Listener *Listener `json:"listener,omitempty"`
	Token    []byte    `json:"token,omitempty"`
}

// errStranger means that another user is at the other end.
var errStranger = errors.New("handover: the other end is not the agent's user")

// checkPeer fails unless the process at the other end has this one's user, as
// the kernel noted when it connected or listened (unix(7), SO_PEERCRED).
func checkPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("handover: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return fmt.Errorf("handover: who is at the other end: %w", err)
	}
	if int(cred.Uid) != os.Geteuid() {
		return errStranger
	}
	return nil
}

// send sends one message, with the descriptor of from if that is not nil.
func send(c *net.UnixConn, m message, from syscall.Conn) error {
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("handover: encode: %w", err)
	}
	if err := c.SetWriteDeadline(time.Now().Add(step())); err != nil {
		return fmt.Errorf("handover: %w", err)
	}
	write := func(rights []byte) error {
		if _, _, err := c.WriteMsgUnix(text, rights, nil); err != nil {
			return fmt.Errorf("handover: send %s: %w", m.Kind, err)
		}
		return nil
	}
	if from == nil {
		return write(nil)
	}
	raw, err := from.SyscallConn()
	if err != nil {
		return fmt.Errorf("handover: %w", err)
	}
	var writeErr error
	err = raw.Control(func(fd uintptr) { writeErr = write(unix.UnixRights(int(fd))) })
	return errors.Join(err, writeErr)
}

// speaks returns the versions that a hello names.
func (m message) speaks() versions { return versions{m.Version, max(m.Version, m.Highest)} }

// receive returns the next message, and the descriptor that came with it or
// nil, and waits for it as long as a step may take. The caller closes it.
func receive(c *net.UnixConn) (m message, file *os.File, err error) {
	if err := c.SetReadDeadline(time.Now().Add(step())); err != nil {
		return m, nil, fmt.Errorf("handover: %w", err)
	}
	return read(c)
}

// read is receive with whatever deadline there is.
func read(c *net.UnixConn) (m message, file *os.File, err error) {
	text, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	n, oobn, flags, _, err := c.ReadMsgUnix(text, rights)
	if err != nil {
		return m, nil, fmt.Errorf("handover: receive: %w", err)
	}
	if file, err = descriptor(rights[:oobn]); err != nil {
		return m, nil, err
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("handover: a message was cut off")
	} else if err = json.Unmarshal(text[:n], &m); err != nil {
		err = fmt.Errorf("handover: decode: %w", err)
	}
	if err != nil && file != nil {
		file.Close()
		file = nil
	}
	return m, file, err
}

// descriptor returns the one descriptor in a control message; nil for none.
func descriptor(rights []byte) (*os.File, error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return nil, errors.Join(errors.New("handover: unknown control message"), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(errors.New("handover: not one descriptor"), err)
	}
	// The other agent still accepts at this open file: were it blocking for a
	// moment, an accept of its that enters then would never return. os.NewFile
	// leaves the mode as it is, and so does all that is made of its file;
	// the method File of a net.Listener would not.
	return os.NewFile(uintptr(fds[0]), "handed over"), nil
}

// expect receives a message that must be of the kind.
func expect(c *net.UnixConn, want kind) error {
	m, file, err := receive(c)
	if err != nil {
		return err
	}
	return m.mustBe(want, file)
}

// mustBe fails for a message of another kind. It closes the file, which may be
// nil.
func (m message) mustBe(want kind, file *os.File) error {
	if file != nil {
		file.Close()
	}
	if m.Kind != want {
		return fmt.Errorf("handover: the other agent said %q, not %q", m.Kind, want)
	}
	return nil
}
