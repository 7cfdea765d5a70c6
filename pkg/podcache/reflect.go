package podcache

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// keep keeps store up to date until ctx is done, with objects such as example
// that lw gets from client. It may return later than that.
func keep(ctx context.Context, store cache.ReflectorStore, name string, lw *cache.ListWatch, client any, example runtime.Object) {
	// lw tells what fails; the reflector's own lines go nowhere.
	silent := klog.Logger{}
	r := cache.NewReflectorWithOptions(
		cache.ToListWatcherWithWatchListSemantics(lw, client), example, store,
		cache.ReflectorOptions{Name: name, Logger: &silent, Backoff: &pause})
	r.RunWithContext(klog.NewContext(ctx, silent))
}

// listWatch returns the two calls of a reflector, limited to what selector
// matches. It hands their errors to failed.
func listWatch[L runtime.Object](
	selector fields.Selector, failed func(context.Context, error), list call[L], watches watchFunc,
) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector.String()
			l, err := list(ctx, o)
			if err != nil {
				failed(ctx, err)
				return nil, err
			}
			return l, nil
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector.String()
			w, err := watches(ctx, o)
			if err != nil {
				failed(ctx, err)
			}
			return w, err
		},
	}
}

// watchErrorsOf returns a function that logs errors about what is watched.
func (c *Cache) watchErrorsOf(what string) func(context.Context, error) {
	return func(ctx context.Context, err error) { c.logWatchError(ctx, what, err) }
}

// logWatchError logs an error that the reflector will retry, unless it is
// part of normal life.
func (c *Cache) logWatchError(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	if unreachable(err) {
		c.giveUp()
	}
	expired := apierrors.IsResourceExpired(err) || apierrors.IsGone(err)
	if expired || !c.watchErrors.Allow() {
		return
	}
	c.log.Warn("watching the API failed, trying again", "watched", what, "err", err)
}
