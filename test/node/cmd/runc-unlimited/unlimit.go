package main

import (
	"encoding/json"
	"slices"
	"strings"
)

// controllerOf maps the members of linux.resources in the OCI runtime
// specification to the controller that enforces them. Devices are not among
// them: cgroup v2 enforces those by a BPF program.
var controllerOf = map[string]string{
	"cpu":            "cpu",
	"memory":         "memory",
	"pids":           "pids",
	"blockIO":        "io",
	"hugepageLimits": "hugetlb",
	"rdma":           "rdma",
}

// object keeps what it does not look into byte for byte: limits are 64-bit
// numbers, which a float64 would round.
type object map[string]json.RawMessage

// unlimit returns the runtime configuration without the limits whose
// controller is not in controllers.
func unlimit(config []byte, controllers []string) ([]byte, error) {
	resources := func(o object) error {
		for member, controller := range controllerOf {
			if !slices.Contains(controllers, controller) {
				delete(o, member)
			}
		}
		return edit(o, "unified", func(files object) error {
			for file := range files {
				if controller, _, _ := strings.Cut(file, "."); !slices.Contains(controllers, controller) {
					delete(files, file)
				}
			}
			return nil
		})
	}
	var o object
	if err := json.Unmarshal(config, &o); err != nil {
		return nil, err
	}
	err := edit(o, "linux", func(linux object) error { return edit(linux, "resources", resources) })
	if err != nil {
		return nil, err
	}
	return json.Marshal(o)
}

// edit lets change work on a member of o, if o has it.
func edit(o object, member string, change func(object) error) error {
	if o[member] == nil {
		return nil
	}
	var inner object
	if err := json.Unmarshal(o[member], &inner); err != nil {
		return err
	}
	if err := change(inner); err != nil {
		return err
	}
	changed, err := json.Marshal(inner)
	o[member] = changed
	return err
}
