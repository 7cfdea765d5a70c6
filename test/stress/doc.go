// Command stress runs the suites again and again beside processes that keep the
// processors busy, and prints how often each failed and what that says: the
// upper 95 % bound of its failure rate. Test programs are built once, with the
// race detector. It is no part of `make test`.
//
// Each suite runs once, then the kernel's, whose bound is the one that is asked
// for, until its rounds are done, then all in turn, so that they have done the
// same share of their rounds when time is up. As many rounds run at the same time as there are processors:
// where tests share something with others, they are in namespaces, cgroups and
// folders of their own, or their suite runs one round at a time. A failed round
// is never repeated, and its output is kept.
package main
