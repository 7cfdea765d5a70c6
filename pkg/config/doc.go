// Package config reads the agent's configuration file and tells when it
// changes. cmd/agent loads and watches the file, and hands podcache the result;
// convert writes one in the same words. It checks everything before it gives
// anything out, and it never acts on a field.
package config
