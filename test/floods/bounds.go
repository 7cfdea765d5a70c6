package main

import "github.com/sidestep-agent/sidestep/test/overlay"

// without says how to take a bound out of the sources.
var without = map[string][]overlay.Edit{
	"held callers of a pod": {{
		File: "pkg/broker/limits.go", Old: "Held: 64, HeldTotal: 512,", New: "Held: 1 << 20, HeldTotal: 1 << 20,",
	}},
	"callers who have left": {{
		File: "pkg/broker/conn.go", Old: "return outcome{err: errLeft}", New: "<-c.life.Done()",
	}},
	"new connections": {{
		File: "pkg/broker/limits.go", Old: "const beginsPerRequest = 2", New: "const beginsPerRequest = 1 << 20",
	}},
	"requests that arrive": {{
		File: "pkg/broker/limits.go", Old: "Reading: 32, ReadingTotal: 512,", New: "Reading: 1 << 20, ReadingTotal: 1 << 20,",
	}},
	"idle ones make room": {{
		File: "pkg/connlimit/table.go", Old: "for s := Idle; s < Serving; s++ {", New: "for s := Serving; s < Serving; s++ {",
	}},
	"connections over all": {{
		File: "pkg/broker/limits.go", Old: "Total: 2048,", New: "Total: 1 << 20,",
	}},
	"log lines": {{
		File: "pkg/broker/handler.go", Old: "\tif !ok {\n\t\treturn slog.LevelDebug, 0\n\t}\n\tif _, ok := c.server.lines", New: "\t_ = ok\n\tif _, ok := c.server.lines",
	}, {
		File: "pkg/broker/limits.go", Old: "allLines        = 200", New: "allLines        = 1 << 20",
	}},
	"IMDS's own parameters": {{
		File: "pkg/broker/imdspath/query.go", Old: "if known && valid(value) ||", New: "if !known || valid(value) ||",
	}, {
		File: "pkg/broker/imdspath/query.go", Old: "for _, name := range []string{\"api-version\", \"format\", nonce} {", New: "for name := range values {",
	}},
	"a share of the VM's limit": {{
		File: "pkg/broker/limits.go", Old: "PerSecond: 4,", New: "PerSecond: 400,",
	}, {
		File: "pkg/broker/limits.go", Old: "UnderWay: 4,", New: "UnderWay: 400,",
	}, {
		File: "pkg/broker/limits.go", Old: "Waiting:  16,", New: "Waiting:  400,",
	}},
	"IMDS's Retry-After": {{
		File: "pkg/broker/relay/calls.go", Old: "cs.paused = now.Add(pause)", New: "_ = pause",
	}},
	"panics": {{
		File: "pkg/broker/conn.go", Old: "if v := recover(); v != nil {\n\t\tc.server.panicked(v)\n\t\t_ = c.Close()", New: "if v := any(nil); v != nil {\n\t\tc.server.panicked(v)\n\t\t_ = c.Close()",
	}},
	"scrapers of one address": {{
		File: "pkg/metricsserver/server.go", Old: "const perAddress = 16", New: "const perAddress = 1 << 20",
	}},
	"scrapers over all": {{
		File: "pkg/metricsserver/server.go", Old: "Total: 128,", New: "Total: 1 << 20,",
	}},
	"slow scrapers make room": {{
		File: "pkg/metricsserver/server.go", Old: "c.(*conn).slot.Set(connlimit.Idle,", New: "c.(*conn).slot.Set(connlimit.Serving,",
	}},
	"answers are shared": {{
		File: "pkg/metricsserver/scrapes.go", Old: "if a.last != nil && (a.last.begun.After(asked) || !a.budget.Allow()) {", New: "if asked.IsZero() {",
	}},
}
