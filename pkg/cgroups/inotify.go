package cgroups

import "maps"

// add watches a directory. One that is gone needs no watch.
//
// On a cgroup filesystem a watch does not end with its directory: the kernel
// ends it with the inode's last link (fs/dcache.c, dentry_unlink_inode), and
// kernfs leaves a removed directory its links. Each pod that ended would keep
// an inode in memory and count against fs.inotify.max_user_watches.
func (w *watch) add(dir string) {
	if w.inotify == nil {
		return
	}
	id, err := ID(dir)
	if w.watched[dir] != id {
		w.forget(dir) // it is gone, and another may be in its place
	}
	if err == nil {
		err = w.inotify.Add(dir)
	}
	if err == nil {
		w.watched[dir] = id
	} else if !isGone(err) && w.missing == nil {
		w.missing = err
	}
}

// forget ends the watch of a directory that is gone, if there is one.
func (w *watch) forget(dir string) {
	if _, ok := w.watched[dir]; !ok {
		return
	}
	delete(w.watched, dir)
	// It fails where the kernel has ended the watch by itself.
	_ = w.inotify.Remove(dir)
}

// forgetGone ends the watches of all directories that are gone.
func (w *watch) forgetGone() {
	for dir, id := range maps.Clone(w.watched) {
		if now, err := ID(dir); isGone(err) || err == nil && now != id {
			w.forget(dir)
		}
	}
}
