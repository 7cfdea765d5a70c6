package handover

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/sidestep-agent/sidestep/test/lab"
)

// load is what the clients of one pod do until the file Until is there.
type load struct {
	Keep    bool // keep the connection until told otherwise
	Workers int
	Every   time.Duration // between two requests of a worker
	Idle    time.Duration // the same, of each fourth worker
	Client  string        // whose token is right
	Until   string
	// Requests ends a worker by itself after so many; 0: Until does.
	Requests int
}

// tally is what came of it. Nothing was tried twice.
type tally struct {
	Requests, Failed, Reset, Wrong int
	Told                           int // answers with Connection: close
	Notes                          []string
}

func init() { lab.Register("load", run) }

func run(l load) (tally, error) {
	var sum tally
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range l.Workers {
		w := worker{load: l}
		if i%4 == 0 {
			w.Every = l.Idle
		}
		all.Go(func() {
			w.work()
			mu.Lock()
			defer mu.Unlock()
			sum.add(w.tally)
		})
	}
	all.Wait()
	return sum, nil
}

func (t *tally) add(o tally) {
	t.Requests += o.Requests
	t.Failed += o.Failed
	t.Reset += o.Reset
	t.Wrong += o.Wrong
	t.Told += o.Told
	t.Notes = append(t.Notes, o.Notes...)
}

type worker struct {
	load
	tally
	conn   net.Conn
	reader *bufio.Reader
}

func (w *worker) work() {
	tick := time.NewTicker(w.Every)
	defer tick.Stop()
	for {
		if _, err := os.Stat(w.Until); err == nil {
			return
		}
		w.tally.Requests++
		if err := w.ask(); err != nil {
			w.note(err)
			w.hangUp()
		}
		if w.tally.Requests == w.load.Requests {
			w.hangUp()
			return
		}
		<-tick.C
	}
}

// errWrong means that a token came and was another's.
var errWrong = errors.New("another's token")

func (w *worker) note(err error) {
	switch {
	case errors.Is(err, errWrong):
		w.Wrong++
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		w.Reset++
	default:
		w.Failed++
	}
	w.Notes = append(w.Notes, err.Error())
}

// patience is how long a real client waits for an answer.
const patience = 30 * time.Second

func (w *worker) ask() error {
	if w.conn != nil {
		return w.exchange()
	}
	dialer := net.Dialer{Timeout: patience}
	c, err := dialer.DialContext(context.Background(), "tcp4", "169.254.169.254:80")
	if err != nil {
		return fmt.Errorf("%s: %w", newConnection, err)
	}
	w.conn, w.reader = c, bufio.NewReader(c)
	if err := w.exchange(); err != nil {
		return fmt.Errorf("%s: %w", newConnection, err)
	}
	return nil
}

// newConnection begins the note of a request that was the first on its
// connection.
const newConnection = "new connection"

// exchange asks and reads on the connection that there is.
func (w *worker) exchange() error {
	if err := w.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := io.WriteString(w.conn, "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net HTTP/1.1\r\n"+
		"Host: 169.254.169.254\r\nMetadata: true\r\n\r\n")
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	resp, err := http.ReadResponse(w.reader, nil)
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	if resp.Close {
		w.Told++
	}
	if resp.Close || !w.Keep {
		w.hangUp()
	}
	return w.judge(resp.StatusCode, body)
}

func (w *worker) judge(status int, body []byte) error {
	var token struct {
		ClientID    string `json:"client_id"`
		AccessToken string `json:"access_token"`
	}
	if status != http.StatusOK {
		return fmt.Errorf("answer %d: %s", status, body)
	}
	if err := json.Unmarshal(body, &token); err != nil {
		return err
	}
	if token.ClientID != w.Client || token.AccessToken == "" {
		return errWrong
	}
	return nil
}

func (w *worker) hangUp() {
	if w.conn != nil {
		_ = w.conn.Close()
		w.conn = nil
	}
}
