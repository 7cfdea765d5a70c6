// Package status lets a person ask the agent on a node what it does: which
// pods it steers, which service accounts it gets tokens for and what last went
// wrong. `agent run` serves the report on a Unix socket in its state
// directory; `agent status` and the readiness probe ask there. It holds no
// state and no secret, and it changes nothing.
package status
