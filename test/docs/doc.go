// Package docs holds the pages of the repository to what they speak of.
package docs
