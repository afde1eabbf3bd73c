package disk

import (
	"context"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// Mend drops the signatures of an image that Options.Damaged is told of by name, durably, and
// returns their names. Get leaves them out already: nothing that is served changes. The record is
// kept if there was one.
func (s *Store) Mend(ctx context.Context, image api.Image, record store.Record) ([]string, error) {
	var dropped []string
	err := s.batch(ctx, func(tx *bbolt.Tx) error {
		dropped = nil
		f, err := readImage(tx, imageKey(image))
		if err != nil {
			return fmt.Errorf("%s: %w", image, err)
		}
		set, damages := f.set(tx, image)
		if len(damages) == 0 {
			return nil
		}
		for _, d := range damages {
			dropped = append(dropped, d.name)
		}
		after := set
		after.Version++
		record.Image, record.Names = image, dropped
		if err := f.write(tx, s.known, image, set, after); err != nil {
			return err
		}
		return putRecords(tx, []store.Record{record}, s.o.Clock())
	})
	if err != nil {
		return nil, err
	}
	return dropped, nil
}
