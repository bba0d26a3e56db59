from train.starting import begin

begin()
