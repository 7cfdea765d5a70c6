// Package load asks the metadata service for tokens all the time, as clients
// do that never try twice, and counts the results.
package load

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Options say how many ask, and how often.
type Options struct {
	Keep    bool // keep the connection until asked to close it
	Workers int
	Every   time.Duration // between two requests of a worker
	Idle    time.Duration // the same, of each fourth worker
	Client  string        // the client id of the right token
	// Requests ends a worker by itself after so many; 0: it goes on.
	Requests int
}

// Run asks until ctx ends and returns the counts. Until then tell, if not
// nil, is called each second with what has come by then.
func Run(ctx context.Context, o Options, tell func(Tally)) Tally {
	s := &sum{}
	var all sync.WaitGroup
	for i := range o.Workers {
		w := worker{Options: o, sum: s}
		if i%4 == 0 {
			w.Every = o.Idle
		}
		all.Go(func() { w.work(ctx) })
	}
	if tell != nil {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for ctx.Err() == nil {
			select {
			case <-tick.C:
				tell(s.now())
			case <-ctx.Done():
			}
		}
	}
	all.Wait()
	return s.now()
}

// sum is the tally of all workers.
type sum struct {
	mu  sync.Mutex
	all Tally
}

func (s *sum) now() Tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all
}

func (s *sum) add(o Tally) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all.Add(o)
}

type worker struct {
	Options
	sum    *sum
	conn   net.Conn
	reader *bufio.Reader
	alive  time.Time // see Failure
}

func (w *worker) work(ctx context.Context) {
	defer w.hangUp()
	tick := time.NewTicker(w.Every)
	defer tick.Stop()
	for n := 1; ctx.Err() == nil; n++ {
		closing, err := w.ask()
		t := judge(err, w.alive)
		if t.Requests = 1; closing {
			t.Closing = 1
		}
		w.sum.add(t)
		if err != nil {
			w.hangUp()
		}
		if n == w.Requests {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// patience is how long a real client waits for an answer.
const patience = 30 * time.Second

// NewConnection begins the note of a request that was the first on its
// connection.
const NewConnection = "new connection"

// Asker is a parameter of each request that means nothing but to who reads a
// log: the client id of the right token.
const Asker = "asker"

// ask reports whether the answer said that its connection ends.
func (w *worker) ask() (closing bool, err error) {
	if w.conn != nil {
		return w.exchange()
	}
	w.alive = time.Now()
	dialer := net.Dialer{Timeout: patience}
	c, err := dialer.DialContext(context.Background(), "tcp4", "169.254.169.254:80")
	if err != nil {
		return false, fmt.Errorf("%s: %w", NewConnection, err)
	}
	w.conn, w.reader = c, bufio.NewReader(c)
	if closing, err = w.exchange(); err != nil {
		err = fmt.Errorf("%s: %w", NewConnection, err)
	}
	return closing, err
}

// exchange asks and reads on the connection that there is.
func (w *worker) exchange() (closing bool, err error) {
	if err := w.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return false, err
	}
	_, err = fmt.Fprintf(w.conn, "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net&%s=%s HTTP/1.1\r\n"+
		"Host: 169.254.169.254\r\nMetadata: true\r\n\r\n", Asker, w.Client)
	if err != nil {
		return false, fmt.Errorf("send: %w", err)
	}
	resp, err := http.ReadResponse(w.reader, nil)
	if err != nil {
		return false, fmt.Errorf("receive: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.Close, fmt.Errorf("receive: %w", err)
	}
	if resp.Close || !w.Keep {
		w.hangUp()
	}
	if err := check(resp.StatusCode, body, w.Client); err != nil {
		return resp.Close, err
	}
	w.alive = time.Now()
	return resp.Close, nil
}

func (w *worker) hangUp() {
	if w.conn != nil {
		_ = w.conn.Close()
		w.conn = nil
	}
}
