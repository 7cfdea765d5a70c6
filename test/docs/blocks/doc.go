// Package blocks reads the command blocks of the repository's pages, tells
// which of them a test has to run and where, and runs them as they stand. The
// tests of the pages and of the node rig use it, and command script.
//
// Directly above the fence of each block in sh a comment that no reader sees
// says where it runs:
//
//	<!-- run: PLACE -->
//	<!-- needs: TOOL -->   nowhere: TOOL is one that no test can have
//
// A comment <!-- shows --> above another fence says that it is what the block
// before it prints.
package blocks
