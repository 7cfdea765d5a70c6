// Package faults makes what may go wrong on a node go wrong under the agent's
// own program, in a lab, and looks what becomes of pods: a pod that is steered
// while it asks for tokens all the time, and one that passes. Each test is one
// row of the table that test/faults/table prints.
package faults
