package connlimit_test

import (
	"fmt"
	"time"

	"github.com/sidestep-agent/sidestep/pkg/connlimit"
)

// named stands for a connection that can be closed.
type named string

func (n named) Evict(connlimit.State) { fmt.Println(n, "is closed to make room") }

// A pod that has as many connections as it may loses one that is idle when it
// makes another.
func ExampleTable_Add() {
	table := connlimit.New(connlimit.Bounds{
		Total: 10, Reading: 1, ReadingTotal: 5, Held: 1, HeldTotal: 5,
	})
	const perPod = 2
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	first := table.Add("pod", connlimit.Idle, perPod, now, named("first"))
	table.Add("pod", connlimit.Idle, perPod, now.Add(time.Second), named("second"))
	first.Set(connlimit.Serving, now.Add(2*time.Second))
	table.Add("pod", connlimit.Idle, perPod, now.Add(3*time.Second), named("third"))
	fmt.Println(table.Len(), "connections")
	// Output:
	// second is closed to make room
	// 2 connections
}
