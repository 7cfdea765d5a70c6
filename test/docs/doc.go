// Package docs holds the pages of the repository to what they speak of. What
// runs their commands is in run, and in test/node/e2e.
package docs
