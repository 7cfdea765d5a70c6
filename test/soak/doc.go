// Command soak has the agent live through weeks in minutes, and shows that
// nothing is lost and nothing left behind. It is a suite beside the agent and
// no part of it.
//
// A run has a lab's node (test/scene) with pods that ask for tokens all the
// time and never twice. Around them pods, service accounts and the
// configuration change, the agent is replaced every few seconds, or killed,
// and Entra fails. Then all of that ends, and what the agent holds is compared
// with what it held before: goroutines, descriptors, inotify watches, cached
// tokens, network namespaces, map entries, pins and cgroups must be as many as
// they were, memory at most a tenth more.
//
// What is compared with what: the baseline is of an agent that took over from
// another, went through a short stretch of the same churn, and has rested. The
// agent at the end took over too, and is not replaced in the last third of the
// run, and until it has itself seen three times as many pods come and go: a
// successor starts with nothing, and would hide every leak but those in the
// kernel. Both have rested for longer than the agent keeps anything of what is
// gone (settle).
//
// Clients that an agent's death breaks off are counted apart, as refused while
// no agent ran: between the last word that a connection brought and the
// request's failure, an agent must have been dead. Entra's faults excuse
// no pod that had a token; a pod that is new then may be asked to try again.
//
// Beside the run, builds of the agent from which one release was removed
// each run for a while. Every one must be found out by the figure that it is
// said to spoil: else the figures prove nothing.
package main
