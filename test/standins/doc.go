// Package standins is the parent of the stand-ins for what exists only in
// Azure: Entra ID, a VM's instance metadata service and a Key Vault, and of a
// small API server for runs without a cluster. Each one checks what it is
// sent as its original would, answers in its original's words, and keeps a
// journal that tests read. Only tests and the demo use them; nothing of them
// is in the agent or its image.
package standins
