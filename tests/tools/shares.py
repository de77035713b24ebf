"""Cases of parametrised tests that `make test` leaves to `make test-long`.

Each test here has many cases of one thing, and takes seconds for all of them: `make test` takes
every second or third. Those that are left out are long tests like others.
"""

from __future__ import annotations

from collections import Counter

import pytest

# file -> test -> one of so many cases is quick
SHARES = {
    "test_batches": {"test_a_resumed_loop_gives_the_batches_of_an_uninterrupted_one": 2},
    "test_build": {
        "test_builds_are_identical_at_any_time_and_with_any_number_of_workers": 2,
        "test_the_library_and_the_maps_give_the_same_whole_columns": 2,
    },
    "test_cli": {"test_a_closed_stream_changes_nothing": 3},
    "test_convert": {"test_a_conversion_is_the_direct_build_byte_for_byte": 2},
    "test_cudagraph": {"test_nor_does_a_step_on_images_of_another_kind": 2},
    "test_distributed": {"test_several_ranks_take_the_steps_of_one": 2},
    "test_dataset_report": {"test_images_of_every_kind_are_shown": 2},
    "test_docs": {"test_the_examples_read_every_column_whole": 3},
    "test_exports": {"test_an_interrupted_export_continues_to_the_same_files": 3},
    "test_image_kinds": {
        "test_a_short_run_ends_with_a_finite_loss_and_beats_chance": 2,
        "test_the_kind_of_a_dataset_is_read_from_its_manifest": 3,
    },
    "test_images_source": {"test_names_of_classes_do_not_depend_on_the_locale": 2},
    "test_kills": {
        "test_a_command_killed_at_any_moment_leaves_nothing_that_passes_as_whole"
        "_and_can_be_resumed": 2
    },
    "test_kinds": {"test_every_kind_is_stored_as_defined_and_verified": 2},
    "test_order": {"test_all_orders_of_a_few_samples_are_equally_frequent": 2},
    "test_places": {"test_a_path_can_be_a_string": 3},
    "test_plants": {"test_a_plant_is_found_at_the_levels_that_can_find_it": 3},
    "test_report": {"test_datasets_of_any_shape_can_be_drawn": 2},
    "test_resume": {
        "test_a_failing_step_is_reported_leaves_no_temporary_file_and_can_be_resumed": 3,
        "test_a_killed_build_leaves_no_process_lock_or_manifest_and_can_be_resumed": 2,
        "test_only_damaged_files_are_written_again": 2,
    },
    "test_roofline": {"test_the_timed_steps_are_those_of_training": 3},
    "test_settings": {"test_combined_settings_train_to_finite_numbers": 2},
    "test_show": {
        "test_show_and_sample_print_and_draw_the_same": 2,
        "test_the_stored_row_is_shown_and_the_derived_one_is_the_same": 2,
    },
    "test_testing": {
        "test_a_dataset_is_whole_when_checked_against_its_source": 2,
        "test_no_damaged_dataset_verifies_whole": 3,
    },
    "test_train": {
        "test_a_kill_between_any_two_files_leaves_a_resumable_run": 2,
        "test_a_stopped_and_resumed_run_equals_an_uninterrupted_one": 2,
    },
    "test_transfer": {
        "test_a_dataset_goes_there_and_back": 2,
        "test_an_object_with_the_name_of_a_folder_does_not_belong_there": 2,
        "test_objects_that_were_changed_do_not_become_files": 2,
    },
    "test_uniqueness": {"test_memory_depends_on_the_budget_and_not_on_the_count": 2},
    "test_urls": {
        "test_a_build_that_is_stopped_at_any_request_goes_on": 3,
        "test_a_create_whose_answer_is_lost_is_known_as_its_own": 2,
        "test_a_part_leaves_nothing_in_a_dataset_that_is_finished_meanwhile": 3,
        "test_an_object_that_is_lost_before_the_commit_leaves_no_manifest": 2,
    },
    "test_verify": {
        "test_a_chunk_that_decodes_to_too_much_takes_no_memory": 2,
        "test_a_compressed_shard_holds_only_its_chunks_and_their_index": 2,
        "test_a_new_dataset_is_whole": 3,
    },
}


def mark(items: list[pytest.Item]) -> None:
    """Mark the cases that are left out as long; those that are long already do not count."""
    seen = Counter[str]()
    for item in items:
        name = item.nodeid.partition("[")[0]
        share = SHARES.get(item.path.stem, {}).get(name.rpartition("::")[2], 1)
        if share > 1 and not item.get_closest_marker("long"):
            if seen[name] % share:
                item.add_marker(pytest.mark.long)
            seen[name] += 1
