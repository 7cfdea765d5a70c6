package delivery

import (
	"net"
	"reflect"
	"time"
)

// noProbes is the value of net.ListenConfig.KeepAlive for no keep-alive probes.
const noProbes time.Duration = -1

// withoutProbes has an adopted listener accept as one that was opened with
// net.ListenConfig.KeepAlive below zero. Go makes a listener of an open socket
// only with the default, and has no way to change it: it is a field that is not
// exported. Where a later Go has no such field, connections cost four more
// system calls each, and TestConnectionsAreNotProbed fails.
func withoutProbes(l *net.TCPListener) {
	field := reflect.ValueOf(l).Elem().FieldByName("lc")
	if !field.IsValid() || field.Type() != reflect.TypeFor[net.ListenConfig]() {
		return
	}
	config := (*net.ListenConfig)(field.Addr().UnsafePointer())
	config.KeepAlive = noProbes
}
