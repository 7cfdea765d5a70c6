// Package config reads the agent's configuration file and tells when it
// changes. cmd/agent loads and watches the file; podcache is handed
// the result. It checks everything before it gives anything out, and it never
// acts on a field.
package config
