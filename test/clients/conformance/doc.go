// Command conformance runs real clients of the instance metadata service as
// processes in steered pods of a lab's node (see test/scene), the agent's own
// program between them and the stand-ins, and checks that each gets the
// identity that it asked for with no more requests than it makes of IMDS
// itself. With -record it writes down what the clients send, byte for byte,
// for the tests of pkg/broker.
package main
